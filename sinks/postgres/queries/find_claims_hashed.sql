-- Claims of these keys in a generation and its neighbours. One look into an index a key and leaf: see find_claims_timed.
SELECT k.key, c.body
FROM unnest($1::uuid[]) AS k (key)
CROSS JOIN LATERAL (
    SELECT h.body FROM meter.claims_hashed h WHERE h.generation = $2::smallint AND h.key = k.key
    UNION ALL
    SELECT h.body FROM meter.claims_hashed h WHERE h.generation = $2::smallint - 1 AND h.key = k.key
    UNION ALL
    SELECT h.body FROM meter.claims_hashed h WHERE h.generation = $2::smallint + 1 AND h.key = k.key
    LIMIT 1
) c
