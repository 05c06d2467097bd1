-- What a tenant spent in [$2, $3) in currency $4; $5 to $9: the scope, NULL is any.
SELECT coalesce(sum(amount), 0) FROM (
    SELECT amount FROM meter.ledger
    WHERE tenant = $1 AND occurred_at >= $2 AND occurred_at < $3 AND currency = $4
      AND ($5::text IS NULL OR project_id = $5) AND ($6::text IS NULL OR user_id = $6)
      AND ($7::text IS NULL OR api_key_id = $7) AND ($8::text IS NULL OR provider = $8)
      AND ($9::text IS NULL OR model = $9)
    UNION ALL
    SELECT amount FROM meter.adjustments
    WHERE tenant = $1 AND occurred_at >= $2 AND occurred_at < $3 AND currency = $4
      AND ($5::text IS NULL OR project_id = $5) AND ($6::text IS NULL OR user_id = $6)
      AND ($7::text IS NULL OR api_key_id = $7) AND ($8::text IS NULL OR provider = $8)
      AND ($9::text IS NULL OR model = $9)
) spent
