-- An event by its id. $2: tenant or NULL, $3: source or NULL, $4 and $5: bounds of its time, each may be NULL.
SELECT tenant, source, event_id, occurred_at, appended_at, source_id, source_partition, position,
       pricing, price_revision, currency, amount
FROM meter.ledger
WHERE event_id = $1 AND ($2::text IS NULL OR tenant = $2) AND ($3::text IS NULL OR source = $3)
  AND ($4::timestamptz IS NULL OR occurred_at >= $4) AND ($5::timestamptz IS NULL OR occurred_at <= $5)
ORDER BY appended_at, position LIMIT $6;
