-- Rejected records; one that is there already stays (the rater sends again what it had not committed).
INSERT INTO meter.rejected (source_id, source_partition, position, appended_at, reason, detail, topic, tenant, event_id,
    value, value_length, value_sha256, key, headers)
SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::text[], $10::bytea[], $11::integer[], $12::text[], $13::bytea[], $14::jsonb[])
ON CONFLICT DO NOTHING
