-- What a vendor says in its own words: events whose usage could not be read, and the cost that it reports.

-- NOT VALID: it admits more than the one before, and nothing has to wait for a look at every row. See 0009.
ALTER TABLE meter.ledger
    DROP CONSTRAINT ledger_amount_check,
    ADD CONSTRAINT ledger_amount_check CHECK (
        (pricing = 'priced' AND amount IS NOT NULL) OR (pricing IN ('unpriced', 'unmetered') AND amount IS NULL)
    ) NOT VALID;
COMMENT ON COLUMN meter.ledger.amount IS 'NULL: there was no price yet (an adjustment charges it later), or vendor_usage could not be read.';
COMMENT ON COLUMN meter.rollup_hourly.unpriced_events IS 'Events without an amount: unpriced and unmetered; the ledger tells them apart.';
COMMENT ON COLUMN meter.rollup_daily.unpriced_events IS 'As in rollup_hourly.';

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
       attributes ->> 'stated_model' AS stated_model, attributes ->> 'unmetered_reason' AS unmetered_reason
FROM meter.ledger;

CREATE VIEW meter.reported_costs WITH (security_invoker = true) AS
SELECT tenant, occurred_at, event_id, source, provider, model, operation, pricing, currency, amount,
       reported_currency, reported_amount,
       CASE WHEN currency = reported_currency THEN reported_amount - amount END AS difference
FROM meter.ledger
WHERE reported_amount IS NOT NULL;
COMMENT ON VIEW meter.reported_costs IS 'What vendors say they charged, beside our charge. difference = reported - ours; NULL where ours is in another currency or is not known. Give a tenant and a range of occurred_at.';
GRANT SELECT ON meter.reported_costs TO meterstream_reader, meterstream_tenant;
