-- Claims of these keys; all keys lie within one day and within [$2, $3], so one leaf is looked at.
SELECT c.key, c.body
FROM unnest($1::uuid[]) AS k (key)
JOIN meter.claims_timed c ON c.key = k.key
WHERE c.key BETWEEN $2 AND $3
