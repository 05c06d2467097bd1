-- Hours that have more claims than ledger rows: an event was claimed and not stored, and would be refused as
-- a duplicate for ever. Fewer claims prove nothing: they expire. $1: from this moment on, or NULL; $2: row limit.
WITH claimed AS (
    SELECT date_trunc('hour', occurred_at, 'UTC') AS hour, count(*) AS claims FROM (
        SELECT occurred_at FROM meter.claims_timed WHERE $1::timestamptz IS NULL OR occurred_at >= $1
        UNION ALL
        SELECT occurred_at FROM meter.claims_hashed WHERE $1::timestamptz IS NULL OR occurred_at >= $1
    ) claims GROUP BY 1
), stored AS (
    SELECT date_trunc('hour', occurred_at, 'UTC') AS hour, count(*) AS events FROM meter.ledger
    WHERE $1::timestamptz IS NULL OR occurred_at >= $1 GROUP BY 1
), compared AS (
    SELECT hour, claims, coalesce(events, 0) AS events FROM claimed LEFT JOIN stored USING (hour)
), counted AS (
    SELECT coalesce(sum(claims), 0)::bigint AS compared, count(*) FILTER (WHERE claims > events) AS different
    FROM compared
)
SELECT counted.*, d.*
FROM counted LEFT JOIN LATERAL (
    SELECT hour::text AS hour, claims, events FROM compared WHERE claims > events ORDER BY hour LIMIT $2
) d ON true;
