-- Once a session: where a batch's deltas are copied to; empty again after each transaction.
CREATE TEMPORARY TABLE hourly_deltas ON COMMIT DELETE ROWS AS
SELECT
    tenant, hour, currency, provider, model, operation, project_id, events, errors, unpriced_events,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, latency_ms_sum,
    latency_events, amount
FROM meter.rollup_hourly
WITH NO DATA;
CREATE TEMPORARY TABLE daily_deltas ON COMMIT DELETE ROWS AS
SELECT
    tenant, day, currency, provider, model, operation, project_id, user_id, api_key_id, events, errors,
    unpriced_events, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
    latency_ms_sum, latency_events, amount
FROM meter.rollup_daily
WITH NO DATA;
