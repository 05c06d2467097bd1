-- Calls that belong together (retries, fallbacks), and streams whose final usage never came.

CREATE OR REPLACE VIEW meter.usage_events WITH (security_invoker = true) AS
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
       tags, vendor_usage, appended_at, source_id, source_partition, position,
       attributes ->> 'stated_model' AS stated_model, attributes ->> 'unmetered_reason' AS unmetered_reason,
       CASE WHEN amount IS NOT NULL THEN coalesce(attributes ->> 'billed_cost', 'computed') END AS billed_cost,
       attributes ->> 'operation_id' AS operation_id, (attributes ->> 'attempt')::bigint AS attempt,
       coalesce((attributes ->> 'estimated')::boolean, false) AS estimated
FROM meter.ledger;
COMMENT ON COLUMN meter.usage_events.estimated IS 'The quantities are the service''s estimate: the final ones never came.';
