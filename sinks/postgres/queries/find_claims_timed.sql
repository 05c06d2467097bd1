-- Claims of these keys; all keys lie within one day and within [$2, $3], so one leaf is looked at.
-- LATERAL with LIMIT: one look into the index a key, whatever the planner believes of a leaf it has no statistics of.
SELECT k.key, c.body
FROM unnest($1::uuid[]) AS k (key)
CROSS JOIN LATERAL (
    SELECT t.body FROM meter.claims_timed t WHERE t.key = k.key AND t.key BETWEEN $2 AND $3 LIMIT 1
) c
