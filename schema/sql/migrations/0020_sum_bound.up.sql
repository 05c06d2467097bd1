-- One key whose tokens are near the end of bigint made the whole view fail, for everybody who read it.
CREATE OR REPLACE VIEW meter.spend_by_model WITH (security_invoker = true) AS
SELECT tenant, day, currency, provider, model, sum(events)::bigint AS events, sum(unpriced_events)::bigint AS unpriced_events,
       least(sum(input_tokens), 9223372036854775807)::bigint AS input_tokens,
       least(sum(output_tokens), 9223372036854775807)::bigint AS output_tokens,
       sum(amount + adjustment_amount) AS total_amount
FROM meter.rollup_daily
GROUP BY tenant, day, currency, provider, model;
