-- Adds the deltas of one batch to a rollup. They were copied in sorted order and come back in it: every
-- writer locks the keys in one order. Not MERGE, which costs a fifth less: it joins, and where the planner takes a new
-- leaf for empty (its statistics were made while its first batch was not yet committed) each key meets every row.
-- A sum that has come to the end of its column stays there (ADR 0011): refused, it would stop everybody's sink.
INSERT INTO meter.{rollup} AS r (
    tenant, {period}, {labels}, events, errors, unpriced_events, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, reasoning_tokens, latency_ms_sum, latency_events, amount
)
SELECT * FROM pg_temp.{rollup}_deltas
ON CONFLICT (tenant, {period}, {labels}) DO UPDATE SET
    events = r.events + excluded.events, errors = r.errors + excluded.errors,
    unpriced_events = r.unpriced_events + excluded.unpriced_events,
    input_tokens = r.input_tokens + least(excluded.input_tokens, {most} - r.input_tokens),
    output_tokens = r.output_tokens + least(excluded.output_tokens, {most} - r.output_tokens),
    cache_read_tokens = r.cache_read_tokens + least(excluded.cache_read_tokens, {most} - r.cache_read_tokens),
    cache_write_tokens = r.cache_write_tokens + least(excluded.cache_write_tokens, {most} - r.cache_write_tokens),
    reasoning_tokens = r.reasoning_tokens + least(excluded.reasoning_tokens, {most} - r.reasoning_tokens),
    latency_ms_sum = r.latency_ms_sum + least(excluded.latency_ms_sum, {most} - r.latency_ms_sum),
    latency_events = r.latency_events + excluded.latency_events, amount = r.amount + excluded.amount
