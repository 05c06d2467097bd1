-- Once a session: where a batch's deltas of a rollup are copied to; empty again after each transaction.
CREATE TEMPORARY TABLE {rollup}_deltas ON COMMIT DELETE ROWS AS
SELECT
    tenant, {period}, {labels}, events, errors, unpriced_events, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, reasoning_tokens, latency_ms_sum, latency_events, amount
FROM meter.{rollup}
WITH NO DATA;
