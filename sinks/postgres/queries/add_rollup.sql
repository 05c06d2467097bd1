-- Adds the deltas of one batch to a rollup. They were copied in sorted order and come back in it: every
-- writer locks the keys in one order. $1, $2: the first and the last period of the batch, so that only their leaves are
-- planned for. MERGE: a new row costs half of what ON CONFLICT makes of it. Two writers that insert one key at once
-- would fail on the primary key and begin anew; but a tenant has one writer.
MERGE INTO meter.{rollup} r
USING pg_temp.{rollup}_deltas d
ON r.tenant = d.tenant AND r.{period} = d.{period} AND {same_labels} AND r.{period} BETWEEN $1 AND $2
WHEN MATCHED THEN UPDATE SET
    events = r.events + d.events, errors = r.errors + d.errors,
    unpriced_events = r.unpriced_events + d.unpriced_events, input_tokens = r.input_tokens + d.input_tokens,
    output_tokens = r.output_tokens + d.output_tokens, cache_read_tokens = r.cache_read_tokens + d.cache_read_tokens,
    cache_write_tokens = r.cache_write_tokens + d.cache_write_tokens,
    reasoning_tokens = r.reasoning_tokens + d.reasoning_tokens, latency_ms_sum = r.latency_ms_sum + d.latency_ms_sum,
    latency_events = r.latency_events + d.latency_events, amount = r.amount + d.amount
WHEN NOT MATCHED THEN INSERT (
    tenant, {period}, {labels}, events, errors, unpriced_events, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, reasoning_tokens, latency_ms_sum, latency_events, amount
) VALUES (
    d.tenant, d.{period}, {delta_labels}, d.events, d.errors, d.unpriced_events, d.input_tokens, d.output_tokens,
    d.cache_read_tokens, d.cache_write_tokens, d.reasoning_tokens, d.latency_ms_sum, d.latency_events, d.amount
)
