-- Every hour key whose rollup is not the sum of ledger and adjustments. $1: from this hour on, or NULL; $2: row limit.
-- `compared` counts all keys, also those that agree. Adjustments move adjustment_amount only.
WITH summed AS (
    SELECT tenant, date_trunc('hour', occurred_at, 'UTC') AS hour, currency, provider, model, operation, project_id,
           count(*) AS events,
           count(*) FILTER (WHERE status <> 'ok') AS errors,
           count(*) FILTER (WHERE amount IS NULL) AS unpriced_events,
           sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
           sum(cache_read_tokens) AS cache_read_tokens, sum(cache_write_tokens) AS cache_write_tokens,
           sum(reasoning_tokens) AS reasoning_tokens,
           coalesce(sum(latency_ms), 0) AS latency_ms_sum, count(latency_ms) AS latency_events,
           coalesce(sum(amount), 0) AS amount
    FROM meter.ledger WHERE $1::timestamptz IS NULL OR occurred_at >= $1
    GROUP BY 1, 2, 3, 4, 5, 6, 7
), adjusted AS (
    SELECT tenant, date_trunc('hour', occurred_at, 'UTC') AS hour, currency, provider, model, operation, project_id,
           sum(amount) AS adjustment_amount
    FROM meter.adjustments WHERE $1::timestamptz IS NULL OR occurred_at >= $1
    GROUP BY 1, 2, 3, 4, 5, 6, 7
), expected AS (
    SELECT tenant, hour, currency, provider, model, operation, project_id,
           ARRAY[coalesce(events, 0), coalesce(errors, 0), coalesce(unpriced_events, 0), coalesce(input_tokens, 0),
                 coalesce(output_tokens, 0), coalesce(cache_read_tokens, 0), coalesce(cache_write_tokens, 0),
                 coalesce(reasoning_tokens, 0), coalesce(latency_ms_sum, 0), coalesce(latency_events, 0),
                 coalesce(amount, 0), coalesce(adjustment_amount, 0)]::numeric[] AS numbers
    FROM summed FULL JOIN adjusted USING (tenant, hour, currency, provider, model, operation, project_id)
), stored AS (
    SELECT tenant, hour, currency, provider, model, operation, project_id,
           ARRAY[events, errors, unpriced_events, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
                 reasoning_tokens, latency_ms_sum, latency_events, amount, adjustment_amount]::numeric[] AS numbers
    FROM meter.rollup_hourly WHERE $1::timestamptz IS NULL OR hour >= $1
), compared AS (
    SELECT tenant, hour::text AS period, currency, provider, model, operation, project_id, '' AS user_id,
           '' AS api_key_id, e.numbers AS expected, s.numbers AS stored,
           e.numbers IS DISTINCT FROM s.numbers AS is_different
    FROM expected e FULL JOIN stored s USING (tenant, hour, currency, provider, model, operation, project_id)
), counted AS (
    SELECT count(*) AS compared, count(*) FILTER (WHERE is_different) AS different FROM compared
)
SELECT counted.compared, counted.different, d.*
FROM counted LEFT JOIN LATERAL (
    SELECT * FROM compared WHERE is_different ORDER BY tenant, period, currency, provider, model, operation LIMIT $2
) d ON true;
