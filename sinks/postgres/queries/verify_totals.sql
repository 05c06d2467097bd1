-- What was metered, by currency. $1: from this day on, or NULL.
SELECT currency, count(*) AS events, count(*) FILTER (WHERE amount IS NULL) AS unpriced_events,
       coalesce(sum(amount), 0) AS amount
FROM meter.ledger WHERE $1::timestamptz IS NULL OR occurred_at >= $1
GROUP BY currency ORDER BY currency;
