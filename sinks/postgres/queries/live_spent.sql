-- The least and the most that may have been counted of a tenant in [$2, $3) in currency $4; $5 to $9: the scope, NULL is
-- any. With $10 only what was appended later must have been, and an adjustment may or may not.
SELECT coalesce(sum(must), 0) AS least, coalesce(sum(may), 0) AS most FROM (
    SELECT CASE WHEN $10::timestamptz IS NULL OR appended_at > $10 THEN amount END AS must, amount AS may
    FROM meter.ledger
    WHERE tenant = $1 AND occurred_at >= $2 AND occurred_at < $3 AND currency = $4
      AND ($5::text IS NULL OR project_id = $5) AND ($6::text IS NULL OR user_id = $6)
      AND ($7::text IS NULL OR api_key_id = $7) AND ($8::text IS NULL OR provider = $8)
      AND ($9::text IS NULL OR model = $9)
    UNION ALL
    SELECT CASE WHEN $10::timestamptz IS NULL THEN amount ELSE least(amount, 0) END,
           CASE WHEN $10::timestamptz IS NULL THEN amount ELSE greatest(amount, 0) END
    FROM meter.adjustments
    WHERE tenant = $1 AND occurred_at >= $2 AND occurred_at < $3 AND currency = $4
      AND ($5::text IS NULL OR project_id = $5) AND ($6::text IS NULL OR user_id = $6)
      AND ($7::text IS NULL OR api_key_id = $7) AND ($8::text IS NULL OR provider = $8)
      AND ($9::text IS NULL OR model = $9)
) spent
