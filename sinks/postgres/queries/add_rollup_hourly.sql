-- Adds the deltas of one batch to rollup_hourly. The keys come sorted: every writer locks them in one order.
INSERT INTO meter.rollup_hourly AS r (
    tenant, hour, currency, provider, model, operation, project_id, events, errors, unpriced_events,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, latency_ms_sum,
    latency_events, amount
)
SELECT * FROM unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
    $16::bigint[], $17::bigint[], $18::numeric[]
)
ON CONFLICT (tenant, hour, currency, provider, model, operation, project_id) DO UPDATE SET
    events = r.events + excluded.events, errors = r.errors + excluded.errors,
    unpriced_events = r.unpriced_events + excluded.unpriced_events,
    input_tokens = r.input_tokens + excluded.input_tokens,
    output_tokens = r.output_tokens + excluded.output_tokens,
    cache_read_tokens = r.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
    reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
    latency_ms_sum = r.latency_ms_sum + excluded.latency_ms_sum,
    latency_events = r.latency_events + excluded.latency_events, amount = r.amount + excluded.amount
