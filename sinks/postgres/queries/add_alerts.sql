-- Stores alerts whose ids are new; returns those that were there before, and whether they say something else.
WITH sent AS (
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::text[],
        $8::numeric[], $9::integer[], $10::numeric[], $11::numeric[], $12::text[], $13::text[], $14::timestamptz[],
        $15::timestamptz[], $16::boolean[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
        $22::text[], $23::text[], $24::smallint[], $25::integer[], $26::bigint[])
    AS s (alert_id, alert_time, rule, tenant, budget, version, currency, amount, percent, threshold, spent, period,
        time_zone, period_start, period_end, provisional, project_id, user_id, api_key_id, provider, model,
        event_id, source, source_id, source_partition, position)
), added AS (
    INSERT INTO meter.alerts (alert_id, alert_time, rule, tenant, budget, version, currency, amount, percent, threshold,
        spent, period, time_zone, period_start, period_end, provisional, project_id, user_id, api_key_id, provider,
        model, event_id, source, source_id, source_partition, position)
    SELECT * FROM sent
    ON CONFLICT (alert_id) DO NOTHING
)
SELECT a.alert_id, to_jsonb(a) - 'stored_at' IS DISTINCT FROM to_jsonb(s) AS is_other
FROM sent s JOIN meter.alerts a USING (alert_id)
