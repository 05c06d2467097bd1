-- Every position with its disposition, in order: one sort of all of them, on disk where memory ends.
SELECT source_id, source_partition, position, place, event_id FROM (
    SELECT source_id, source_partition, position, 'ledger' AS place, event_id FROM meter.ledger
    UNION ALL
    SELECT source_id, source_partition, position, 'duplicates', event_id FROM meter.duplicates
    UNION ALL
    SELECT source_id, source_partition, position, 'rejected', NULL FROM meter.rejected
) judged
ORDER BY source_id, source_partition, position;
