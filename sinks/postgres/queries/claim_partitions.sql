-- Takes partitions over: a higher epoch, and where to go on. A first claim begins at the given offset.
INSERT INTO meter.sink_positions AS p (topic, partition, next_offset, epoch, cluster_id, updated_at)
SELECT w.topic, w.partition, w.begin_offset, 1, $4, now()
FROM unnest($1::text[], $2::integer[], $3::bigint[]) AS w (topic, partition, begin_offset)
ON CONFLICT (topic, partition) DO UPDATE SET epoch = p.epoch + 1, updated_at = now()
RETURNING p.topic, p.partition, p.next_offset, p.epoch, p.covered, p.prefixes, p.cluster_id
