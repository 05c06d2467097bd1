-- Claims of these keys in every generation that is kept, whatever the append time says: a broker whose clock was wrong
-- for a while has claimed in generations far off. One look into an index a key and leaf: see find_claims_timed.
WITH kept AS MATERIALIZED (
    SELECT lower_bound::smallint AS generation FROM meter.leaves WHERE parent = 'claims_hashed'
)
SELECT k.key, c.body
FROM unnest($1::uuid[]) AS k (key)
CROSS JOIN LATERAL (
    SELECT claimed.body
    FROM kept
    CROSS JOIN LATERAL (
        SELECT h.body FROM meter.claims_hashed h WHERE h.generation = kept.generation AND h.key = k.key LIMIT 1
    ) claimed
    LIMIT 1
) c
