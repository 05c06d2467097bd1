-- Positions that have more than one disposition. $1: appended from this moment on, or NULL; $2: row limit.
-- One row more in `rejected` beside the ledger is the mark of two raters of different versions.
WITH judged AS (
    SELECT source_id, source_partition, position, 'ledger' AS place FROM meter.ledger
    WHERE $1::timestamptz IS NULL OR appended_at >= $1
    UNION ALL
    SELECT source_id, source_partition, position, 'duplicates' FROM meter.duplicates
    WHERE $1::timestamptz IS NULL OR appended_at >= $1
    UNION ALL
    SELECT source_id, source_partition, position, 'rejected' FROM meter.rejected
    WHERE $1::timestamptz IS NULL OR appended_at >= $1
), positions AS (
    SELECT source_id, source_partition, position, string_agg(place, ',' ORDER BY place) AS places
    FROM judged GROUP BY 1, 2, 3
), counted AS (
    SELECT count(*) AS compared,
           count(*) FILTER (WHERE places IN ('ledger,rejected', 'duplicates,rejected')) AS judged_twice,
           count(*) FILTER (WHERE places LIKE '%,%' AND places NOT IN ('ledger,rejected', 'duplicates,rejected'))
               AS different
    FROM positions
)
SELECT counted.*, d.*
FROM counted LEFT JOIN LATERAL (
    SELECT * FROM positions
    WHERE places LIKE '%,%' AND places NOT IN ('ledger,rejected', 'duplicates,rejected')
    ORDER BY source_id, source_partition, position LIMIT $2
) d ON true;
