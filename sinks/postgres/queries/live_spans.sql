-- What the ledger holds of these spans of tenants, without what was appended too late, by place in the list.
SELECT w.place, l.currency, l.provider, l.model, count(*) AS events,
       count(*) FILTER (WHERE l.status <> 'ok') AS errors,
       count(*) FILTER (WHERE l.amount IS NULL) AS unpriced_events, sum(l.input_tokens) AS input_tokens,
       sum(l.output_tokens) AS output_tokens, coalesce(sum(l.amount), 0) AS amount, 0::numeric AS adjustment_amount
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[]) WITH ORDINALITY
    AS w (tenant, start_at, end_at, before, place)
JOIN meter.ledger l ON l.tenant = w.tenant AND l.occurred_at >= w.start_at AND l.occurred_at < w.end_at
    AND l.appended_at < w.before
GROUP BY 1, 2, 3, 4
