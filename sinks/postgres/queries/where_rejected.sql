-- Rejected events that said this id. $2: tenant or NULL, $3: limit. Bytes that could not be read have no id.
SELECT tenant, event_id, appended_at, source_id, source_partition, position, reason, detail
FROM meter.rejected
WHERE event_id = $1 AND ($2::text IS NULL OR tenant IS NULL OR tenant = $2)
ORDER BY appended_at, position LIMIT $3;
