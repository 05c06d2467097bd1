-- Repeats of an event. $2: tenant or NULL, $3: source or NULL, $4 and $5: bounds of the append time, $6: limit.
SELECT tenant, source, event_id, appended_at, source_id, source_partition, position
FROM meter.duplicates
WHERE event_id = $1 AND ($2::text IS NULL OR tenant = $2) AND ($3::text IS NULL OR source = $3)
  AND ($4::timestamptz IS NULL OR appended_at >= $4) AND ($5::timestamptz IS NULL OR appended_at <= $5)
ORDER BY appended_at, position LIMIT $6;
