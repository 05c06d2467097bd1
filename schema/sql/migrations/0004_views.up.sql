-- What people read. security_invoker: the reader's own rights and row security apply, not the owner's.

CREATE VIEW meter.usage_events WITH (security_invoker = true) AS
SELECT tenant, occurred_at, event_id, source,
       provider, model, operation, attributes ->> 'endpoint' AS endpoint, attributes ->> 'method' AS method,
       status, status_code, attributes ->> 'error' AS error,
       latency_ms, (attributes ->> 'ttft_ms')::numeric AS ttft_ms, (attributes ->> 'retries')::bigint AS retries,
       input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, quantities,
       (attributes ->> 'request_bytes')::bigint AS request_bytes,
       (attributes ->> 'response_bytes')::bigint AS response_bytes,
       pricing, price_revision, currency, amount, reported_amount, reported_currency,
       project_id, user_id, api_key_id,
       attributes ->> 'agent_id' AS agent_id, attributes ->> 'task_id' AS task_id,
       attributes ->> 'conversation_id' AS conversation_id, attributes ->> 'session_id' AS session_id,
       attributes ->> 'message_id' AS message_id, attributes ->> 'request_id' AS request_id,
       attributes ->> 'environment' AS environment, attributes ->> 'region' AS region,
       attributes ->> 'service_tier' AS service_tier, attributes ->> 'variant' AS variant,
       attributes ->> 'ip' AS ip, attributes ->> 'user_agent' AS user_agent,
       tags, vendor_usage, appended_at, source_id, source_partition, position
FROM meter.ledger;
COMMENT ON VIEW meter.usage_events IS 'One row per event. Give a tenant and a range of occurred_at: that is what the index serves.';

CREATE VIEW meter.usage_hourly WITH (security_invoker = true) AS
SELECT tenant, hour, currency, provider, model, operation, project_id, events, errors, unpriced_events,
       input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
       latency_ms_sum, latency_events, round(latency_ms_sum::numeric / nullif(latency_events, 0), 3) AS latency_ms_avg,
       amount, adjustment_amount, amount + adjustment_amount AS total_amount
FROM meter.rollup_hourly;
COMMENT ON VIEW meter.usage_hourly IS 'Sums by UTC hour. latency_ms_avg is not additive: sum latency_ms_sum and latency_events instead.';

CREATE VIEW meter.usage_daily WITH (security_invoker = true) AS
SELECT tenant, day, currency, provider, model, operation, project_id, user_id, api_key_id, events, errors,
       unpriced_events, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
       latency_ms_sum, latency_events, round(latency_ms_sum::numeric / nullif(latency_events, 0), 3) AS latency_ms_avg,
       amount, adjustment_amount, amount + adjustment_amount AS total_amount
FROM meter.rollup_daily;
COMMENT ON VIEW meter.usage_daily IS 'Sums by UTC day, with user and API key.';

CREATE VIEW meter.spend_by_model WITH (security_invoker = true) AS
SELECT tenant, day, currency, provider, model, sum(events)::bigint AS events, sum(unpriced_events)::bigint AS unpriced_events,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
       sum(amount + adjustment_amount) AS total_amount
FROM meter.rollup_daily
GROUP BY tenant, day, currency, provider, model;
COMMENT ON VIEW meter.spend_by_model IS 'What each model cost by UTC day. Currencies are never added up.';

GRANT SELECT ON meter.usage_events, meter.usage_hourly, meter.usage_daily, meter.spend_by_model
    TO meterstream_reader, meterstream_tenant;
