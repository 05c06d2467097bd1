-- Claims of these keys in a generation and its neighbours.
SELECT c.key, c.body
FROM unnest($1::uuid[]) AS k (key)
JOIN meter.claims_hashed c ON c.key = k.key
WHERE c.generation BETWEEN $2::smallint - 1 AND $2::smallint + 1
