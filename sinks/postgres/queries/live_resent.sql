-- Events of tenant $1 in [$2, $3) that came again: duplicates, and conflicts with the id of one of them.
WITH again AS (
    SELECT event_id, source FROM meter.duplicates WHERE tenant = $1 AND appended_at >= $2::timestamptz - interval '1 hour'
    UNION ALL
    SELECT event_id, NULL FROM meter.rejected
    WHERE reason = 'id_conflict' AND tenant = $1 AND appended_at >= $2::timestamptz - interval '1 hour'
)
SELECT count(*)
FROM again a
WHERE EXISTS (
    SELECT FROM meter.ledger l
    WHERE l.tenant = $1 AND l.occurred_at >= $2 AND l.occurred_at < $3
      AND l.event_id = a.event_id AND (a.source IS NULL OR l.source = a.source)
)
