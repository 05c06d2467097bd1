-- Budgets, where they stand, and the alerts that they raised. In a scope NULL means any.

CREATE TABLE meter.budgets (
    tenant     text        NOT NULL,
    name       text        NOT NULL,
    version    integer     NOT NULL,
    amount     numeric(38, 12) NOT NULL,
    currency   text        NOT NULL,
    period     text        NOT NULL,
    time_zone  text        NOT NULL DEFAULT 'UTC',
    week_start smallint    NOT NULL DEFAULT 1,
    anchor_day smallint    NOT NULL DEFAULT 1,
    thresholds integer[]   NOT NULL,
    project_id text,
    user_id    text,
    api_key_id text,
    provider   text,
    model      text,
    removed    boolean     NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT budgets_pkey PRIMARY KEY (tenant, name, version),
    CONSTRAINT budgets_version_check CHECK (version >= 1),
    CONSTRAINT budgets_amount_check CHECK (amount > 0),
    CONSTRAINT budgets_currency_check CHECK (currency ~ '^[A-Z]{3}$' AND currency <> 'XXX'),
    CONSTRAINT budgets_period_check CHECK (period IN ('day', 'week', 'month')),
    CONSTRAINT budgets_begin_check CHECK (week_start BETWEEN 1 AND 7 AND anchor_day BETWEEN 1 AND 31),
    CONSTRAINT budgets_thresholds_check CHECK (cardinality(thresholds) BETWEEN 1 AND 20)
);
COMMENT ON TABLE meter.budgets IS 'Every version of every budget; the newest counts. Only ever appended: a removal is a version too.';
COMMENT ON COLUMN meter.budgets.thresholds IS 'Percent of the amount, ascending; reached means at or above.';

CREATE TABLE meter.budget_states (
    tenant          text        NOT NULL,
    name            text        NOT NULL,
    version         integer     NOT NULL,
    currency        text        NOT NULL,
    amount          numeric(38, 12) NOT NULL,
    period          text        NOT NULL,
    time_zone       text        NOT NULL,
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    spent           numeric(38, 12) NOT NULL,
    remaining       numeric(38, 12) NOT NULL,
    percent         numeric     NOT NULL,
    thresholds      integer[]   NOT NULL,
    reached         integer[]   NOT NULL,
    provisional     boolean     NOT NULL,
    counts_since    timestamptz,
    project_id      text,
    user_id         text,
    api_key_id      text,
    provider        text,
    model           text,
    previous_start  timestamptz,
    previous_end    timestamptz,
    previous_spent  numeric(38, 12),
    priced_partition integer    NOT NULL,
    priced_offset   bigint      NOT NULL,
    stored_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT budget_states_pkey PRIMARY KEY (tenant, name)
) WITH (fillfactor = 50);
COMMENT ON TABLE meter.budget_states IS 'Where each budget stands, as usage.aggregates says: the one with the higher offset stays. May be emptied: read it through budget_status.';
COMMENT ON COLUMN meter.budget_states.priced_offset IS 'Everything of this partition of usage.priced before this offset is counted.';

CREATE TABLE meter.alerts (
    alert_id         uuid        NOT NULL,
    alert_time       timestamptz NOT NULL,
    stored_at        timestamptz NOT NULL DEFAULT now(),
    rule             text        NOT NULL,
    tenant           text        NOT NULL,
    budget           text        NOT NULL,
    version          integer     NOT NULL,
    currency         text        NOT NULL,
    amount           numeric(38, 12) NOT NULL,
    percent          integer     NOT NULL,
    threshold        numeric(38, 12) NOT NULL,
    spent            numeric(38, 12) NOT NULL,
    period           text        NOT NULL,
    time_zone        text        NOT NULL,
    period_start     timestamptz NOT NULL,
    period_end       timestamptz NOT NULL,
    provisional      boolean     NOT NULL,
    project_id       text,
    user_id          text,
    api_key_id       text,
    provider         text,
    model            text,
    event_id         text,
    source           text,
    source_id        smallint,
    source_partition integer,
    position         bigint,
    CONSTRAINT alerts_pkey PRIMARY KEY (alert_id),
    CONSTRAINT alerts_place_check CHECK (num_nulls(event_id, source, source_id, source_partition, position) IN (0, 5))
);
COMMENT ON TABLE meter.alerts IS 'One row for each level that a budget reached in a period, whatever was sent again. Never updated.';
COMMENT ON COLUMN meter.alerts.event_id IS 'The event that reached the level; NULL: it was reached when this version of the budget was made.';
CREATE INDEX alerts_tenant_alert_time_idx ON meter.alerts (tenant, alert_time);

CREATE TRIGGER budgets_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.budgets
    FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change();
CREATE TRIGGER alerts_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.alerts
    FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change();

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['budgets', 'budget_states', 'alerts']
    LOOP
        EXECUTE format('ALTER TABLE meter.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY %I ON meter.%I FOR SELECT TO meterstream_reader USING (true)',
                       name || '_reader', name);
        EXECUTE format('CREATE POLICY %I ON meter.%I FOR SELECT TO meterstream_tenant '
                       'USING (tenant = (SELECT meter.current_tenant()))', name || '_tenant', name);
        EXECUTE format('GRANT SELECT ON meter.%I TO meterstream_reader, meterstream_tenant', name);
    END LOOP;
END
$$;
-- It compares an alert that comes again with the one that it has, and lets go of the states of removed budgets.
GRANT SELECT, INSERT ON meter.alerts TO meterstream_ingest;
GRANT SELECT, INSERT, UPDATE, DELETE ON meter.budget_states TO meterstream_ingest;

CREATE VIEW meter.current_budgets WITH (security_invoker = true) AS
SELECT tenant, name, version, amount, currency, period, time_zone, week_start, anchor_day, thresholds,
       project_id, user_id, api_key_id, provider, model, created_at
FROM (SELECT DISTINCT ON (tenant, name) * FROM meter.budgets ORDER BY tenant, name, version DESC) newest
WHERE NOT removed;
COMMENT ON VIEW meter.current_budgets IS 'The newest version of each budget that is not removed.';

CREATE VIEW meter.budget_status WITH (security_invoker = true) AS
SELECT b.tenant, b.name, b.version, b.amount, b.currency, b.period, b.time_zone, b.thresholds,
       b.project_id, b.user_id, b.api_key_id, b.provider, b.model,
       s.spent, s.remaining, s.percent, s.reached, s.provisional,
       s.period_start, s.period_end AS resets_at, s.counts_since,
       s.previous_start, s.previous_end, s.previous_spent, s.stored_at
FROM meter.current_budgets b
LEFT JOIN meter.budget_states s USING (tenant, name, version);
COMMENT ON VIEW meter.budget_status IS 'Where each budget stands; NULL where nothing of this version has been counted yet. At resets_at it begins at zero again.';

CREATE VIEW meter.budget_alerts WITH (security_invoker = true) AS
SELECT tenant, alert_time, alert_id, rule, budget, version, percent, threshold, spent, amount, currency,
       period, time_zone, period_start, period_end, provisional,
       project_id, user_id, api_key_id, provider, model, event_id, source, stored_at
FROM meter.alerts;
COMMENT ON VIEW meter.budget_alerts IS 'Every level that a budget reached, once. Give a tenant and a range of alert_time: that is what the index serves.';

GRANT SELECT ON meter.current_budgets, meter.budget_status, meter.budget_alerts TO meterstream_reader, meterstream_tenant;
