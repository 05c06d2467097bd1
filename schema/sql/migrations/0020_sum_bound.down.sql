CREATE OR REPLACE VIEW meter.spend_by_model WITH (security_invoker = true) AS
SELECT tenant, day, currency, provider, model, sum(events)::bigint AS events, sum(unpriced_events)::bigint AS unpriced_events,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
       sum(amount + adjustment_amount) AS total_amount
FROM meter.rollup_daily
GROUP BY tenant, day, currency, provider, model;
