-- The compare-and-set of a batch: moves the rows that are still ours and still where we left them.
UPDATE meter.sink_positions p
SET next_offset = m.next_offset, covered = m.covered, prefixes = m.prefixes, updated_at = now(),
    -- A paused aggregator may say an old one; NULL where nothing was said.
    counted_offset = greatest(p.counted_offset, m.counted_offset),
    counted_watermark = greatest(p.counted_watermark, m.counted_watermark)
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::jsonb[], $7::jsonb[],
    $8::bigint[], $9::timestamptz[])
    AS m (topic, partition, expected_offset, epoch, next_offset, covered, prefixes, counted_offset, counted_watermark)
WHERE p.topic = m.topic AND p.partition = m.partition AND p.next_offset = m.expected_offset AND p.epoch = m.epoch
