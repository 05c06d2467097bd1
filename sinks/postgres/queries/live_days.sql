-- What the rollups hold of these days, by place in the list.
SELECT w.place, r.currency, r.provider, r.model, sum(events) AS events, sum(errors) AS errors,
       sum(unpriced_events) AS unpriced_events, sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens, sum(amount) AS amount, sum(adjustment_amount) AS adjustment_amount
FROM unnest($1::text[], $2::date[]) WITH ORDINALITY AS w (tenant, day, place)
JOIN meter.rollup_daily r ON r.tenant = w.tenant AND r.day = w.day
GROUP BY 1, 2, 3, 4
