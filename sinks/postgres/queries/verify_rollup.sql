-- Every key whose row of a rollup is not the sum of ledger and adjustments. $1: from this midnight on, or NULL;
-- $2: row limit. `compared` counts all keys, also those that agree. Adjustments move adjustment_amount only; sums of
-- tokens and latencies end where their column does.
WITH summed AS (
    SELECT tenant, {of_event} AS {period}, {labels},
           count(*) AS events,
           count(*) FILTER (WHERE status <> 'ok') AS errors,
           count(*) FILTER (WHERE amount IS NULL) AS unpriced_events,
           least(sum(input_tokens), {most}) AS input_tokens, least(sum(output_tokens), {most}) AS output_tokens,
           least(sum(cache_read_tokens), {most}) AS cache_read_tokens,
           least(sum(cache_write_tokens), {most}) AS cache_write_tokens,
           least(sum(reasoning_tokens), {most}) AS reasoning_tokens,
           least(coalesce(sum(latency_ms::bigint), 0), {most}) AS latency_ms_sum, count(latency_ms) AS latency_events,
           coalesce(sum(amount), 0) AS amount
    FROM meter.ledger WHERE $1::timestamptz IS NULL OR occurred_at >= $1
    GROUP BY tenant, {of_event}, {labels}
), adjusted AS (
    SELECT tenant, {of_event} AS {period}, {labels}, sum(amount) AS adjustment_amount
    FROM meter.adjustments WHERE $1::timestamptz IS NULL OR occurred_at >= $1
    GROUP BY tenant, {of_event}, {labels}
), expected AS (
    SELECT tenant, {period}, {labels},
           ARRAY[coalesce(events, 0), coalesce(errors, 0), coalesce(unpriced_events, 0), coalesce(input_tokens, 0),
                 coalesce(output_tokens, 0), coalesce(cache_read_tokens, 0), coalesce(cache_write_tokens, 0),
                 coalesce(reasoning_tokens, 0), coalesce(latency_ms_sum, 0), coalesce(latency_events, 0),
                 coalesce(amount, 0), coalesce(adjustment_amount, 0)]::numeric[] AS numbers
    FROM summed FULL JOIN adjusted USING (tenant, {period}, {labels})
), stored AS (
    SELECT tenant, {period}, {labels},
           ARRAY[events, errors, unpriced_events, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
                 reasoning_tokens, latency_ms_sum, latency_events, amount, adjustment_amount]::numeric[] AS numbers
    FROM meter.{rollup} WHERE $1::timestamptz IS NULL OR {period} >= {since}
), compared AS (
    SELECT tenant, {period}::text AS period, {labels}, e.numbers AS expected, s.numbers AS stored,
           e.numbers IS DISTINCT FROM s.numbers AS is_different
    FROM expected e FULL JOIN stored s USING (tenant, {period}, {labels})
), counted AS (
    SELECT count(*) AS compared, count(*) FILTER (WHERE is_different) AS different FROM compared
)
SELECT counted.compared, counted.different, d.*
FROM counted LEFT JOIN LATERAL (
    SELECT * FROM compared WHERE is_different ORDER BY tenant, period, currency, provider, model, operation LIMIT $2
) d ON true;
