-- Stores states of budgets; one that holds at a higher offset stays. At the same offset a newer version may hold.
INSERT INTO meter.budget_states AS b (tenant, name, version, currency, amount, period, time_zone, period_start,
    period_end, spent, remaining, percent, thresholds, reached, provisional, counts_since, project_id, user_id,
    api_key_id, provider, model, previous_start, previous_end, previous_spent, priced_partition, priced_offset)
SELECT s.tenant, s.name, s.version, s.currency, s.amount, s.period, s.time_zone, s.period_start, s.period_end, s.spent,
    s.remaining, round(s.percent, 2), s.thresholds::integer[], s.reached::integer[], s.provisional, s.counts_since,
    s.project_id, s.user_id, s.api_key_id, s.provider, s.model, s.previous_start, s.previous_end, s.previous_spent,
    s.priced_partition, s.priced_offset
FROM unnest($1::text[], $2::text[], $3::integer[], $4::text[], $5::numeric[], $6::text[], $7::text[],
    $8::timestamptz[], $9::timestamptz[], $10::numeric[], $11::numeric[], $12::numeric[], $13::text[], $14::text[],
    $15::boolean[], $16::timestamptz[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
    $22::timestamptz[], $23::timestamptz[], $24::numeric[], $25::integer[], $26::bigint[])
    AS s (tenant, name, version, currency, amount, period, time_zone, period_start, period_end, spent, remaining,
        percent, thresholds, reached, provisional, counts_since, project_id, user_id, api_key_id, provider, model,
        previous_start, previous_end, previous_spent, priced_partition, priced_offset)
ON CONFLICT (tenant, name) DO UPDATE
SET version = excluded.version, currency = excluded.currency, amount = excluded.amount, period = excluded.period,
    time_zone = excluded.time_zone, period_start = excluded.period_start, period_end = excluded.period_end,
    spent = excluded.spent, remaining = excluded.remaining, percent = excluded.percent,
    thresholds = excluded.thresholds, reached = excluded.reached, provisional = excluded.provisional,
    counts_since = excluded.counts_since, project_id = excluded.project_id, user_id = excluded.user_id,
    api_key_id = excluded.api_key_id, provider = excluded.provider, model = excluded.model,
    previous_start = excluded.previous_start, previous_end = excluded.previous_end,
    previous_spent = excluded.previous_spent, priced_partition = excluded.priced_partition,
    priced_offset = excluded.priced_offset, stored_at = excluded.stored_at
WHERE (excluded.priced_offset, excluded.version) >= (b.priced_offset, b.version)
