-- When the event of this claim happened: one look-up in each claim table. $1: claim key.
SELECT occurred_at FROM meter.claims_timed WHERE key = $1
UNION ALL
SELECT occurred_at FROM meter.claims_hashed WHERE key = $1;
