-- The sum of the migrations, for reading; tests/integration/test_migrations.py holds the two equal.
-- roles.sql comes first; everything here belongs to meterstream_owner.

-- Tables. Times are UTC; amounts are NUMERIC(38,12) of `currency`; a missing name is '', never NULL.

CREATE TABLE meter.sources (
    source_id  smallint NOT NULL,
    topic      text     NOT NULL,
    generation integer  NOT NULL,
    CONSTRAINT sources_pkey PRIMARY KEY (source_id)
);
COMMENT ON TABLE meter.sources IS 'The number of each (source topic, generation); fixed for ever.';

CREATE TABLE meter.sink_positions (
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    next_offset bigint      NOT NULL,
    epoch       bigint      NOT NULL,
    covered     jsonb       NOT NULL DEFAULT '{}',
    cluster_id  text        NOT NULL,
    updated_at  timestamptz NOT NULL,
    prefixes    jsonb       NOT NULL DEFAULT '{}',
    counted_offset    bigint,
    counted_watermark timestamptz,
    CONSTRAINT sink_positions_pkey PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE meter.sink_positions IS 'How far the sink is; moved in the transaction that stores the rows.';
COMMENT ON COLUMN meter.sink_positions.epoch IS 'Rises with every claim of the partition; a process with an older one is refused.';
COMMENT ON COLUMN meter.sink_positions.covered IS '{"source_id/partition": highest position stored}.';
COMMENT ON COLUMN meter.sink_positions.prefixes IS '{"source_id/partition": [highest position stored, highest append time up to there in ms]}.';
COMMENT ON COLUMN meter.sink_positions.counted_offset IS 'Of usage.aggregates: everything before this offset of usage.priced is counted in what is stored. NULL: nobody has said yet.';
COMMENT ON COLUMN meter.sink_positions.counted_watermark IS 'Of usage.aggregates: the highest append time before counted_offset.';

-- ------------------------------------------------------------------ claims: what makes an event count once

CREATE TABLE meter.claims_timed (
    key         uuid        NOT NULL,
    body        bigint      NOT NULL,
    occurred_at timestamptz NOT NULL,
    CONSTRAINT claims_timed_pkey PRIMARY KEY (key)
) PARTITION BY RANGE (key);
COMMENT ON TABLE meter.claims_timed IS 'Claims of ids that carry their time (UUIDv7, ULID): 48 bits of it lead the key. One leaf a day.';

CREATE TABLE meter.claims_hashed (
    key         uuid        NOT NULL,
    body        bigint      NOT NULL,
    occurred_at timestamptz NOT NULL,
    generation  smallint    NOT NULL,
    CONSTRAINT claims_hashed_pkey PRIMARY KEY (generation, key)
) PARTITION BY LIST (generation);
COMMENT ON TABLE meter.claims_hashed IS 'Claims of all other ids. generation = days since 1970 of the append time / 45.';

-- ------------------------------------------------------------------------------- events and their charges

-- Columns of fixed width first: it saves padding and makes sums faster.
CREATE TABLE meter.ledger (
    occurred_at        timestamptz NOT NULL,
    appended_at        timestamptz NOT NULL,
    position           bigint      NOT NULL,
    input_tokens       bigint      NOT NULL,
    output_tokens      bigint      NOT NULL,
    cache_read_tokens  bigint      NOT NULL,
    cache_write_tokens bigint      NOT NULL,
    reasoning_tokens   bigint      NOT NULL,
    source_partition   integer     NOT NULL,
    latency_ms         integer,
    price_revision     integer     NOT NULL,
    source_id          smallint    NOT NULL,
    status_code        smallint,
    tenant             text        NOT NULL,
    event_id           text        NOT NULL,
    source             text        NOT NULL,
    provider           text        NOT NULL,
    model              text        NOT NULL,
    operation          text        NOT NULL,
    project_id         text        NOT NULL,
    user_id            text        NOT NULL,
    api_key_id         text        NOT NULL,
    status             text        NOT NULL,
    pricing            text        NOT NULL,
    currency           text        NOT NULL,
    amount             numeric(38, 12),
    quantities         jsonb,
    attributes         jsonb,
    tags               jsonb,
    -- json, not jsonb: kept verbatim, and no number or escape in it can make a batch fail
    vendor_usage       json,
    reported_amount    numeric(38, 12),
    reported_currency  text,
    CONSTRAINT ledger_amount_check CHECK (
        (pricing = 'priced' AND amount IS NOT NULL) OR (pricing IN ('unpriced', 'unmetered') AND amount IS NULL)
    )
) PARTITION BY RANGE (occurred_at);
COMMENT ON TABLE meter.ledger IS 'Every event that counts, once, with its charge. Never updated; read it through the view usage_events.';
COMMENT ON COLUMN meter.ledger.position IS 'Kafka offset << 20 | place in the array as sent.';
COMMENT ON COLUMN meter.ledger.amount IS 'NULL: there was no price yet (an adjustment charges it later), or vendor_usage could not be read.';
COMMENT ON COLUMN meter.ledger.quantities IS 'Units without a column of their own: {"unit": integer or decimal text}.';
CREATE INDEX ledger_tenant_occurred_at_idx ON meter.ledger (tenant, occurred_at);

CREATE TABLE meter.adjustments (
    adjustment_id           uuid        NOT NULL,
    kind                    text        NOT NULL,
    tenant                  text        NOT NULL,
    event_id                text        NOT NULL,
    source                  text        NOT NULL,
    target_source_id        smallint    NOT NULL,
    target_source_partition integer     NOT NULL,
    target_position         bigint      NOT NULL,
    occurred_at             timestamptz NOT NULL,
    posted_at               timestamptz NOT NULL,
    currency                text        NOT NULL,
    quantity_sign           smallint    NOT NULL,
    amount                  numeric(38, 12) NOT NULL,
    price_revision          integer     NOT NULL,
    reason                  text        NOT NULL,
    provider                text        NOT NULL,
    model                   text        NOT NULL,
    operation               text        NOT NULL,
    project_id              text        NOT NULL,
    user_id                 text        NOT NULL,
    api_key_id              text        NOT NULL,
    CONSTRAINT adjustments_pkey PRIMARY KEY (adjustment_id),
    CONSTRAINT adjustments_kind_check CHECK (kind IN ('void', 'reprice', 'unpriced')),
    CONSTRAINT adjustments_quantity_sign_check CHECK (quantity_sign IN (-1, 0, 1))
);
COMMENT ON TABLE meter.adjustments IS 'Corrections: what is added to the charge of an event of the ledger, and why. Never updated.';
CREATE INDEX adjustments_tenant_occurred_at_idx ON meter.adjustments (tenant, occurred_at);

CREATE TABLE meter.duplicates (
    appended_at      timestamptz NOT NULL,
    position         bigint      NOT NULL,
    source_partition integer     NOT NULL,
    source_id        smallint    NOT NULL,
    tenant           text        NOT NULL,
    event_id         text        NOT NULL,
    source           text        NOT NULL
) PARTITION BY RANGE (appended_at);
COMMENT ON TABLE meter.duplicates IS 'Events that came again with the same body: counted here, charged nowhere.';

CREATE TABLE meter.rejected (
    source_id        smallint    NOT NULL,
    source_partition integer     NOT NULL,
    position         bigint      NOT NULL,
    appended_at      timestamptz NOT NULL,
    reason           text        NOT NULL,
    detail           text        NOT NULL,
    topic            text        NOT NULL,
    tenant           text,
    event_id         text,
    value            bytea       NOT NULL,
    value_length     integer     NOT NULL,
    value_sha256     text        NOT NULL,
    key              bytea,
    headers          jsonb,
    CONSTRAINT rejected_pkey PRIMARY KEY (source_id, source_partition, position, appended_at)
) PARTITION BY RANGE (appended_at);
COMMENT ON TABLE meter.rejected IS 'What could not be metered: reason, position and the original bytes (cut above 64 KiB).';
COMMENT ON COLUMN meter.rejected.tenant IS 'What the event said; nobody has checked it.';

-- ------------------------------------------------------------------------------------------------ rollups

CREATE TABLE meter.rollup_hourly (
    hour               timestamptz NOT NULL,
    events             bigint NOT NULL,
    errors             bigint NOT NULL,
    unpriced_events    bigint NOT NULL,
    input_tokens       bigint NOT NULL,
    output_tokens      bigint NOT NULL,
    cache_read_tokens  bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens   bigint NOT NULL,
    latency_ms_sum     bigint NOT NULL,
    latency_events     bigint NOT NULL,
    tenant             text   NOT NULL,
    currency           text   NOT NULL,
    provider           text   NOT NULL,
    model              text   NOT NULL,
    operation          text   NOT NULL,
    project_id         text   NOT NULL,
    amount             numeric(38, 12) NOT NULL,
    adjustment_amount  numeric(38, 12) NOT NULL DEFAULT 0,
    CONSTRAINT rollup_hourly_pkey PRIMARY KEY (tenant, hour, currency, provider, model, operation, project_id)
) PARTITION BY RANGE (hour);
COMMENT ON TABLE meter.rollup_hourly IS 'Sums of the ledger by UTC hour, moved in the transaction that stores the rows.';
COMMENT ON COLUMN meter.rollup_hourly.errors IS 'Events whose status is not ok.';
COMMENT ON COLUMN meter.rollup_hourly.unpriced_events IS 'Events without an amount: unpriced and unmetered; the ledger tells them apart.';

CREATE TABLE meter.rollup_daily (
    day                date   NOT NULL,
    events             bigint NOT NULL,
    errors             bigint NOT NULL,
    unpriced_events    bigint NOT NULL,
    input_tokens       bigint NOT NULL,
    output_tokens      bigint NOT NULL,
    cache_read_tokens  bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens   bigint NOT NULL,
    latency_ms_sum     bigint NOT NULL,
    latency_events     bigint NOT NULL,
    tenant             text   NOT NULL,
    currency           text   NOT NULL,
    provider           text   NOT NULL,
    model              text   NOT NULL,
    operation          text   NOT NULL,
    project_id         text   NOT NULL,
    user_id            text   NOT NULL,
    api_key_id         text   NOT NULL,
    amount             numeric(38, 12) NOT NULL,
    adjustment_amount  numeric(38, 12) NOT NULL DEFAULT 0,
    CONSTRAINT rollup_daily_pkey
        PRIMARY KEY (tenant, day, currency, provider, model, operation, project_id, user_id, api_key_id)
) PARTITION BY RANGE (day);
COMMENT ON TABLE meter.rollup_daily IS 'As rollup_hourly, by UTC day, with user and API key.';
COMMENT ON COLUMN meter.rollup_daily.unpriced_events IS 'As in rollup_hourly.';

-- ----------------------------------------------------------------------------------------- prices, tenants

CREATE TABLE meter.price_revisions (
    revision   integer     NOT NULL,
    created_at timestamptz NOT NULL,
    reason     text        NOT NULL,
    CONSTRAINT price_revisions_pkey PRIMARY KEY (revision)
);

CREATE TABLE meter.prices (
    price_id   bigint      NOT NULL,
    revision   integer     NOT NULL,
    tenant     text,
    provider   text        NOT NULL,
    model      text        NOT NULL,
    unit       text        NOT NULL,
    currency   text        NOT NULL,
    rate       numeric(30, 18) NOT NULL,
    per        bigint      NOT NULL,
    valid_from timestamptz NOT NULL,
    known_from timestamptz NOT NULL,
    withdrawn  boolean     NOT NULL,
    source     text        NOT NULL,
    checked_on date,
    match        text   NOT NULL DEFAULT 'exact',
    service_tier text   NOT NULL DEFAULT '',
    region       text   NOT NULL DEFAULT '',
    processing   text   NOT NULL DEFAULT '',
    time_window  text   NOT NULL DEFAULT '',
    above        bigint NOT NULL DEFAULT 0,
    above_unit   text   NOT NULL DEFAULT 'input_tokens',
    percent      numeric(10, 6),
    CONSTRAINT prices_pkey PRIMARY KEY (price_id),
    CONSTRAINT prices_revision_fkey FOREIGN KEY (revision) REFERENCES meter.price_revisions (revision),
    CONSTRAINT prices_rate_check CHECK (rate >= 0 AND per > 0),
    CONSTRAINT prices_conditions_check CHECK (
        match IN ('exact', 'prefix', 'pattern') AND above >= 0
        AND (percent IS NULL OR (percent >= -100 AND tenant IS NOT NULL)))
);
COMMENT ON TABLE meter.prices IS '`rate` of `currency` for `per` units, from valid_from until the next known row begins. Only ever appended.';
COMMENT ON COLUMN meter.prices.tenant IS 'NULL: for every tenant that has no price of its own.';
COMMENT ON COLUMN meter.prices.match IS 'What model is: a name, a beginning of names, or a pattern.';
COMMENT ON COLUMN meter.prices.service_tier IS 'With region, processing and time_window: which calls it is for; empty: all.';
COMMENT ON COLUMN meter.prices.above IS 'Above 0: only for calls with more of above_unit than this.';
COMMENT ON COLUMN meter.prices.percent IS 'Of a tenant: this many percent on the common rate; rate means nothing then.';
CREATE INDEX prices_key_idx ON meter.prices (provider, model, unit, valid_from);

CREATE TABLE meter.tenants (
    tenant     text        NOT NULL,
    privacy    boolean     NOT NULL DEFAULT false,
    time_zone  text        NOT NULL DEFAULT 'UTC',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_pkey PRIMARY KEY (tenant)
);

CREATE TABLE meter.tenant_logins (
    login  name NOT NULL,
    tenant text NOT NULL,
    CONSTRAINT tenant_logins_pkey PRIMARY KEY (login)
);
COMMENT ON TABLE meter.tenant_logins IS 'Whose rows a database login sees. Read by current_tenant() only.';

-- History is appended to. Grants keep the roles out; this keeps an administrator's slip out.
CREATE FUNCTION meter.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% of meter.% is refused: rows are only ever appended', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER prices_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.prices
    FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change();
CREATE TRIGGER price_revisions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.price_revisions
    FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change();
CREATE TRIGGER adjustments_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.adjustments
    FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change();
CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.ledger
    FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change();

-- Leaves are made by these functions only: beside their parent, under row security, then attached, which
-- blocks neither readers nor writers (CREATE TABLE ... PARTITION OF would). There is no DEFAULT partition.

CREATE VIEW meter.leaves AS
SELECT b.parent, b.leaf, b.lower_bound, b.upper_bound,
       CASE b.kind WHEN 'date' THEN b.lower_bound::timestamp AT TIME ZONE 'UTC'
                   WHEN 'time' THEN b.lower_bound::timestamptz END AS lower_at,
       CASE b.kind WHEN 'date' THEN b.upper_bound::timestamp AT TIME ZONE 'UTC'
                   WHEN 'time' THEN b.upper_bound::timestamptz END AS upper_at
FROM (
    SELECT p.relname::text AS parent, c.relname::text AS leaf,
           CASE WHEN p.relname LIKE 'claims%' THEN 'claims' WHEN p.relname = 'rollup_daily' THEN 'date' ELSE 'time' END AS kind,
           substring(e.bound FROM $re$(?:FROM|IN) \('?([^')]+)'?\)$re$) AS lower_bound,
           substring(e.bound FROM $re$TO \('([^']+)'\)$re$) AS upper_bound
    FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'
    JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace AND n.nspname = 'meter'
    CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound) e
) b;
COMMENT ON VIEW meter.leaves IS 'Every partition with its bounds: as text, and as moments where it is partitioned by time.';

CREATE FUNCTION meter.claim_bound(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
RETURN (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
COMMENT ON FUNCTION meter.claim_bound IS 'The lowest claim key of ids that carry this time.';

-- Not granted to anybody: the functions below say what may be attached where.
CREATE FUNCTION meter.attach_leaf(parent text, leaf text, bounds text, fill integer DEFAULT 100) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TABLE meter.%I (LIKE meter.%I INCLUDING ALL) WITH (fillfactor = %s)', leaf, parent, fill);
    EXECUTE format('ALTER TABLE meter.%I ENABLE ROW LEVEL SECURITY', leaf);
    IF parent = 'ledger' THEN  -- a statement that names the leaf does not fire the triggers of its parent
        EXECUTE format('CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change()', leaf);
    END IF;
    EXECUTE format('ALTER TABLE meter.%I ATTACH PARTITION meter.%I %s', parent, leaf, bounds);
    RETURN leaf;
END
$$;

CREATE FUNCTION meter.ensure_partition(parent text, moment timestamptz, size text DEFAULT 'month') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    unit text;
    start timestamptz;
    until timestamptz;
    bound_format text := 'YYYY-MM-DD';
BEGIN
    IF parent NOT IN ('ledger', 'duplicates', 'rejected', 'rollup_hourly', 'rollup_daily')
       OR size NOT IN ('day', 'month', 'year') OR moment IS NULL THEN
        RAISE EXCEPTION 'no partition of % by % at %', parent, size, moment USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('meter.' || parent));
    IF EXISTS (SELECT FROM meter.leaves l WHERE l.parent = ensure_partition.parent
               AND moment >= l.lower_at AND moment < l.upper_at) THEN
        RETURN NULL;
    END IF;
    -- After a change of policy a month may already have leaves by day: then it goes on by day.
    FOREACH unit IN ARRAY CASE size WHEN 'year' THEN '{year,month,day}'::text[]
                                    WHEN 'month' THEN '{month,day}' ELSE '{day}' END
    LOOP
        start := date_trunc(unit, moment);
        until := start + ('1 ' || unit)::interval;
        EXIT WHEN NOT EXISTS (SELECT FROM meter.leaves l WHERE l.parent = ensure_partition.parent
            AND l.lower_at < until AND l.upper_at > start);
    END LOOP;
    IF parent <> 'rollup_daily' THEN
        bound_format := 'YYYY-MM-DD HH24:MI:SS+00';
    END IF;
    RETURN meter.attach_leaf(
        parent,
        parent || to_char(start, CASE unit WHEN 'day' THEN '_YYYY_MM_DD' WHEN 'month' THEN '_YYYY_MM' ELSE '_YYYY' END),
        format('FOR VALUES FROM (%L) TO (%L)', to_char(start, bound_format), to_char(until, bound_format)),
        CASE WHEN parent LIKE 'rollup%' THEN 50 ELSE 100 END  -- room for HOT updates
    );
END
$$;
COMMENT ON FUNCTION meter.ensure_partition IS 'Makes the leaf that holds this moment; the name of the new leaf, or NULL when there is one.';

CREATE FUNCTION meter.ensure_claims_timed(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    leaf text := 'claims_timed_' || to_char(day, 'YYYY_MM_DD');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('meter.claims_timed'));
    IF to_regclass('meter.' || quote_ident(leaf)) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN meter.attach_leaf('claims_timed', leaf, format('FOR VALUES FROM (%L) TO (%L)',
        meter.claim_bound(day::timestamptz), meter.claim_bound((day + 1)::timestamptz)));
END
$$;

CREATE FUNCTION meter.ensure_claims_hashed(generation integer) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leaf text := 'claims_hashed_' || generation;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('meter.claims_hashed'));
    IF to_regclass('meter.' || quote_ident(leaf)) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN meter.attach_leaf('claims_hashed', leaf, format('FOR VALUES IN (%s)', generation));
END
$$;

-- Claims are the only rows that the ingest role can make disappear, and only after their window.
CREATE FUNCTION meter.drop_expired(before timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    -- Two clocks: the caller's is that of the brokers. Were one of them years ahead, the other one holds.
    cutoff timestamptz := least(before, now() - interval '90 days');
    generation_before integer := floor(extract(epoch FROM cutoff) / 86400 / 45)::integer;
    expired text;
BEGIN
    SELECT l.leaf INTO expired FROM meter.leaves l
    WHERE CASE l.parent
        WHEN 'claims_timed' THEN l.upper_bound::uuid <= meter.claim_bound(cutoff)
        WHEN 'claims_hashed' THEN l.lower_bound::integer < generation_before
        WHEN 'duplicates' THEN l.upper_at <= cutoff
        WHEN 'rejected' THEN l.upper_at <= cutoff
    END
    ORDER BY l.parent, l.leaf LIMIT 1;
    IF expired IS NOT NULL THEN
        EXECUTE format('DROP TABLE meter.%I', expired);
    END IF;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION meter.drop_expired IS 'Drops one leaf of claims, duplicates or rejected records that ended before this moment and 90 days ago; its name, or NULL when there is none.';

-- Who may do what. Tenants are walls: row security on every table (and on every leaf, see attach_leaf), the
-- tenant is derived from the login, never from a setting that the session could change.

CREATE FUNCTION meter.current_tenant() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN (SELECT t.tenant FROM meter.tenant_logins t WHERE t.login = session_user);
COMMENT ON FUNCTION meter.current_tenant IS 'The tenant of this login; NULL when it has none, which matches no row.';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['sources', 'sink_positions', 'claims_timed', 'claims_hashed', 'ledger', 'adjustments',
        'duplicates', 'rejected', 'rollup_hourly', 'rollup_daily', 'price_revisions', 'prices', 'tenants', 'tenant_logins']
    LOOP
        EXECUTE format('ALTER TABLE meter.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY %I ON meter.%I FOR SELECT TO meterstream_reader USING (true)',
                       name || '_reader', name);
        EXECUTE format('GRANT SELECT ON meter.%I TO meterstream_reader', name);
    END LOOP;
    -- Not `rejected`: the tenant there is only what an unchecked event said of itself.
    FOREACH name IN ARRAY ARRAY['ledger', 'adjustments', 'duplicates', 'rollup_hourly', 'rollup_daily', 'tenants']
    LOOP
        EXECUTE format('CREATE POLICY %I ON meter.%I FOR SELECT TO meterstream_tenant '
                       'USING (tenant = (SELECT meter.current_tenant()))', name || '_tenant', name);
        EXECUTE format('GRANT SELECT ON meter.%I TO meterstream_tenant', name);
    END LOOP;
END
$$;

CREATE POLICY prices_tenant ON meter.prices FOR SELECT TO meterstream_tenant
    USING (tenant IS NULL OR tenant = (SELECT meter.current_tenant()));
GRANT SELECT ON meter.prices TO meterstream_tenant;

GRANT USAGE ON SCHEMA meter TO meterstream_ingest, meterstream_reader, meterstream_tenant;

GRANT SELECT ON meter.sources, meter.leaves TO meterstream_ingest;
GRANT SELECT ON meter.leaves TO meterstream_reader;
GRANT SELECT, INSERT ON meter.claims_timed, meter.claims_hashed TO meterstream_ingest;
GRANT INSERT ON meter.ledger, meter.duplicates, meter.rejected TO meterstream_ingest;
GRANT SELECT, INSERT, UPDATE ON meter.sink_positions TO meterstream_ingest;
GRANT SELECT, INSERT ON meter.rollup_hourly, meter.rollup_daily TO meterstream_ingest;
GRANT UPDATE (events, errors, unpriced_events, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
    reasoning_tokens, latency_ms_sum, latency_events, amount) ON meter.rollup_hourly, meter.rollup_daily TO meterstream_ingest;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA meter FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE meterstream_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT EXECUTE ON FUNCTION meter.current_tenant() TO meterstream_reader, meterstream_tenant;
GRANT EXECUTE ON FUNCTION meter.claim_bound(timestamptz) TO meterstream_ingest, meterstream_reader;
GRANT EXECUTE ON FUNCTION meter.ensure_partition(text, timestamptz, text), meter.ensure_claims_timed(date),
    meter.ensure_claims_hashed(integer), meter.drop_expired(timestamptz) TO meterstream_ingest;

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
       tags, vendor_usage, appended_at, source_id, source_partition, position,
       attributes ->> 'stated_model' AS stated_model, attributes ->> 'unmetered_reason' AS unmetered_reason,
       CASE WHEN amount IS NOT NULL THEN coalesce(attributes ->> 'billed_cost', 'computed') END AS billed_cost,
       attributes ->> 'operation_id' AS operation_id, (attributes ->> 'attempt')::bigint AS attempt,
       coalesce((attributes ->> 'estimated')::boolean, false) AS estimated,
       attributes ->> 'stated_provider' AS stated_provider, attributes ->> 'unpriced_reason' AS unpriced_reason
FROM meter.ledger;
COMMENT ON VIEW meter.usage_events IS 'One row per event. Give a tenant and a range of occurred_at: that is what the index serves.';
COMMENT ON COLUMN meter.usage_events.billed_cost IS 'computed: by quantities and rates; reported: what the vendor reports is amount.';
COMMENT ON COLUMN meter.usage_events.estimated IS 'The quantities are the service''s estimate: the final ones never came.';

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
       least(sum(input_tokens), 9223372036854775807)::bigint AS input_tokens,
       least(sum(output_tokens), 9223372036854775807)::bigint AS output_tokens,
       sum(amount + adjustment_amount) AS total_amount
FROM meter.rollup_daily
GROUP BY tenant, day, currency, provider, model;
COMMENT ON VIEW meter.spend_by_model IS 'What each model cost by UTC day. Currencies are never added up.';

GRANT SELECT ON meter.usage_events, meter.usage_hourly, meter.usage_daily, meter.spend_by_model
    TO meterstream_reader, meterstream_tenant;

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

CREATE VIEW meter.reported_costs WITH (security_invoker = true) AS
SELECT l.tenant, l.occurred_at, l.event_id, l.source, l.provider, l.model, l.operation, l.pricing, l.currency, l.amount,
       l.reported_currency, l.reported_amount,
       CASE WHEN c.currency = l.reported_currency THEN l.reported_amount - c.amount END AS difference,
       CASE WHEN l.amount IS NOT NULL THEN coalesce(l.attributes ->> 'billed_cost', 'computed') END AS billed_cost,
       c.amount AS computed_amount, c.currency AS computed_currency
FROM meter.ledger l CROSS JOIN LATERAL (
    SELECT (l.attributes ->> 'computed_amount')::numeric(38, 12) AS amount, l.attributes ->> 'computed_currency' AS currency
    WHERE l.attributes ->> 'billed_cost' = 'reported'
    UNION ALL SELECT l.amount, nullif(l.currency, 'XXX') WHERE l.attributes ->> 'billed_cost' IS NULL) c
WHERE l.reported_amount IS NOT NULL;
COMMENT ON VIEW meter.reported_costs IS 'What vendors say they charged, beside what their quantities cost by our rates. difference = reported - computed; NULL where they are in two currencies or we have no price. billed_cost says which of them is amount. Give a tenant and a range of occurred_at.';
GRANT SELECT ON meter.reported_costs TO meterstream_reader, meterstream_tenant;

-- Why was an event charged what it was, for whoever has SQL only: the rules of the rater's book written once more, in
-- exact numeric, over what the reader may see. tests/integration/test_explain.py holds the two equal.

CREATE VIEW meter.units WITH (security_invoker = true) AS
SELECT unit, parent FROM (VALUES
    ('requests', NULL::text),
    ('input_tokens', NULL),
    ('cache_read_tokens', 'input_tokens'),
    ('cache_read_audio_tokens', 'cache_read_tokens'),
    ('cache_read_image_tokens', 'cache_read_tokens'),
    ('cache_read_video_tokens', 'cache_read_tokens'),
    ('cache_write_tokens', 'input_tokens'),
    ('cache_write_5m_tokens', 'cache_write_tokens'),
    ('cache_write_1h_tokens', 'cache_write_tokens'),
    ('input_audio_tokens', 'input_tokens'),
    ('input_image_tokens', 'input_tokens'),
    ('input_video_tokens', 'input_tokens'),
    ('input_tool_tokens', 'input_tokens'),
    ('output_tokens', NULL),
    ('reasoning_tokens', 'output_tokens'),
    ('output_audio_tokens', 'output_tokens'),
    ('output_image_tokens', 'output_tokens'),
    ('output_video_tokens', 'output_tokens'),
    ('other_model_input_tokens', NULL),
    ('other_model_output_tokens', NULL),
    ('characters', NULL),
    ('seconds', NULL),
    ('audio_seconds', NULL),
    ('video_seconds', NULL),
    ('images', NULL),
    ('pages', NULL),
    ('gigabytes', NULL),
    ('web_requests', NULL),
    ('web_searches', NULL),
    ('file_searches', NULL),
    ('code_executions', NULL),
    ('search_units', NULL),
    ('extra_results', NULL),
    ('summaries', NULL),
    ('classifications', NULL),
    ('segments', NULL),
    ('media_messages', NULL),
    ('credits', NULL),
    ('token_hours', NULL)
) AS known (unit, parent);
COMMENT ON VIEW meter.units IS 'Every unit, and the one whose total includes it.';

CREATE FUNCTION meter.pattern_regex(pattern text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
-- `*` any run, `?` one, `[a-z]` one of a set; in a set only ranges mean something.
SELECT '^' || string_agg(CASE token
    WHEN '*' THEN '.*' WHEN '?' THEN '.'
    ELSE CASE WHEN length(token) = 1 THEN regexp_replace(token, '([][(){}.*+?^$|\\-])', '\\\1') ELSE (
        SELECT '[' || string_agg(regexp_replace(left(part[1], 1), '([][(){}.*+?^$|\\-])', '\\\1')
            || CASE WHEN length(part[1]) = 3 THEN '-' || regexp_replace(right(part[1], 1), '([][(){}.*+?^$|\\-])', '\\\1') ELSE '' END,
            '') || ']'
        FROM regexp_matches(substr(token, 2, length(token) - 2), '.-.|.', 'g') part) END
    END, '' ORDER BY place) || '$'
FROM (SELECT found[1] AS token, place FROM regexp_matches(pattern, '\[.[^]]*\]|.', 'g') WITH ORDINALITY AS m (found, place)) tokens
$$;
COMMENT ON FUNCTION meter.pattern_regex IS 'A pattern of models (price_match = pattern) as a regular expression for the whole name.';

CREATE FUNCTION meter.is_open(time_window text, moment timestamptz) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
-- Days are those on which it opens: after midnight it is that of the day before.
SELECT CASE WHEN opens < closes THEN clock >= opens AND clock < closes AND (days IS NULL OR today = ANY (days))
            WHEN clock >= opens THEN days IS NULL OR today = ANY (days)
            ELSE clock < closes AND (days IS NULL OR yesterday = ANY (days)) END
FROM (SELECT string_to_array(part[1], ',') AS days, part[2]::time AS opens, part[3]::time AS closes,
             moment AT TIME ZONE part[4] AS at FROM regexp_match(time_window, '^(?:(\S+) )?(\d\d:\d\d)-(\d\d:\d\d) (\S+)$') part) w,
     LATERAL (SELECT at::time AS clock, to_char(at, 'dy') AS today, to_char(at - interval '1 day', 'dy') AS yesterday) l
$$;
COMMENT ON FUNCTION meter.is_open IS 'Whether the hours of a price (mon,tue 16:30-00:30 Asia/Shanghai) are open at a moment, by the clock of their zone.';

CREATE FUNCTION meter.explain_cost(event_id text, occurred_at timestamptz DEFAULT NULL)
RETURNS TABLE (
    tenant text, source text, happened_at timestamptz, provider text, model text, pricing text, price_revision integer,
    currency text, amount numeric, unit text, quantity numeric, rate numeric, per bigint, percent numeric,
    line_amount numeric, rounding numeric, price_id bigint, price_tenant text, price_match text, price_model text,
    price_conditions jsonb, valid_from timestamptz, known_from timestamptz, price_source text, percent_price_id bigint,
    recomputed numeric, is_equal boolean, note text, call_context jsonb)
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
WITH RECURSIVE event AS (
    SELECT l.*, row_number() OVER (ORDER BY l.tenant, l.source, l.occurred_at, l.source_id, l.source_partition, l.position) AS nr,
           -- the name without its date, the tier by its one name, and what a call says of how it was processed
           substring(l.model FROM '^(.+)[-@](?:20[0-9][0-9]-(?:0[1-9]|1[0-2])-[0-3][0-9]|20[0-9][0-9](?:0[1-9]|1[0-2])[0-3][0-9])$') AS undated,
           CASE WHEN lower(coalesce(l.attributes ->> 'service_tier', '')) IN ('', 'auto', 'default', 'on_demand')
                  OR (l.provider, lower(l.attributes ->> 'service_tier')) = ('groq', 'flex')
                THEN 'standard' ELSE lower(l.attributes ->> 'service_tier') END AS tier,
           coalesce(l.attributes ->> 'region', '') AS region,
           coalesce(l.tags ->> 'processing', '') AS processing
    FROM meter.ledger l
    WHERE l.event_id = explain_cost.event_id
      AND (explain_cost.occurred_at IS NULL OR l.occurred_at = explain_cost.occurred_at)
), counted AS (
    SELECT e.nr, c.unit, c.quantity FROM event e CROSS JOIN LATERAL (
        VALUES ('input_tokens', e.input_tokens::numeric), ('output_tokens', e.output_tokens),
               ('cache_read_tokens', e.cache_read_tokens), ('cache_write_tokens', e.cache_write_tokens),
               ('reasoning_tokens', e.reasoning_tokens)
        UNION ALL SELECT q.key, q.value::numeric FROM jsonb_each_text(e.quantities) q) c (unit, quantity)
    WHERE c.quantity > 0
    UNION ALL
    -- A call that counted nothing is one request; one that said zero was charged zero, and the ledger shows no other trace.
    SELECT e.nr, 'requests', 1 FROM event e
    WHERE e.pricing <> 'unmetered' AND e.amount IS DISTINCT FROM 0 AND e.quantities IS NULL
      AND e.input_tokens + e.output_tokens + e.cache_read_tokens + e.cache_write_tokens + e.reasoning_tokens = 0
), above AS (
    SELECT u.unit, u.parent AS total, 1 AS distance FROM meter.units u WHERE u.parent IS NOT NULL
    UNION ALL SELECT a.unit, u.parent, a.distance + 1 FROM above a JOIN meter.units u ON u.unit = a.total WHERE u.parent IS NOT NULL
), fitting AS (
    -- Whose rows that have begun, and which kind of name fits: the first kind that does decides, whatever its rows say.
    SELECT e.nr, p.*, rank() OVER (PARTITION BY e.nr, p.tenant, p.percent IS NULL ORDER BY f.kind, f.length DESC) AS place
    FROM event e
    JOIN meter.prices p ON p.provider = e.provider AND p.revision <= e.price_revision AND (p.tenant IS NULL OR p.tenant = e.tenant)
        AND p.valid_from <= e.occurred_at
    CROSS JOIN LATERAL (SELECT
        CASE WHEN p.match = 'exact' AND p.model = e.model THEN 1
             WHEN p.match = 'exact' AND p.model = e.undated THEN 2
             WHEN p.match = 'prefix' AND starts_with(e.model, p.model) THEN 3
             WHEN p.match = 'pattern' AND e.model <> '' AND e.model ~ meter.pattern_regex(p.model) THEN 4 END AS kind,
        CASE WHEN p.match = 'prefix' THEN length(p.model) ELSE 0 END AS length) f
    WHERE f.kind IS NOT NULL AND (p.unit <> 'reported_cost' OR p.percent IS NOT NULL)
), newest AS (
    SELECT DISTINCT ON (f.nr, f.tenant, f.percent IS NULL, f.match, f.model, f.unit, f.service_tier, f.region, f.processing,
                        f.time_window, f.above, CASE WHEN f.above > 0 THEN f.above_unit END) f.*
    FROM fitting f
    WHERE f.place = 1
    ORDER BY f.nr, f.tenant, f.percent IS NULL, f.match, f.model, f.unit, f.service_tier, f.region, f.processing, f.time_window,
             f.above, CASE WHEN f.above > 0 THEN f.above_unit END, f.valid_from DESC, f.revision DESC, f.price_id DESC
), reached AS (
    -- In force, without common rates of a unit for which the tenant has its own for every call.
    SELECT n.* FROM newest n
    WHERE NOT n.withdrawn AND (n.tenant IS NOT NULL OR NOT EXISTS (
        SELECT FROM newest o WHERE o.nr = n.nr AND o.unit = n.unit AND o.tenant IS NOT NULL AND NOT o.withdrawn AND o.percent IS NULL
        AND o.service_tier = '' AND o.region = '' AND o.processing = '' AND o.time_window = '' AND o.above = 0))
), ambiguous AS (
    -- Two patterns that stand for the same model: nobody knows which was meant.
    SELECT DISTINCT r.nr, r.percent IS NOT NULL AS is_percent FROM reached r WHERE r.match = 'pattern'
    GROUP BY r.nr, r.tenant, r.percent IS NOT NULL HAVING count(DISTINCT r.model) > 1
), verdict AS (
    SELECT e.nr, (SELECT CASE count(DISTINCT r.currency) WHEN 1 THEN min(r.currency) END
                  FROM reached r WHERE r.nr = e.nr AND r.percent IS NULL
                  AND NOT EXISTS (SELECT FROM ambiguous a WHERE a.nr = e.nr)) AS currency,
           CASE WHEN e.pricing = 'unmetered' THEN 'unmetered: ' || coalesce(e.attributes ->> 'unmetered_reason', '') END AS obstacle
    FROM event e
), in_context AS (
    SELECT r.* FROM reached r JOIN event e USING (nr) JOIN verdict v USING (nr)
    WHERE v.obstacle IS NULL AND (v.currency IS NOT NULL OR r.percent IS NOT NULL)
      AND r.service_tier IN ('', e.tier) AND r.region IN ('', e.region) AND r.processing IN ('', e.processing)
      AND (r.time_window = '' OR meter.is_open(r.time_window, e.occurred_at))
      -- a tier that no row names has a price that nobody has said: only what was agreed with the tenant holds for it
      AND (e.tier = 'standard' OR r.tenant IS NOT NULL
           OR EXISTS (SELECT FROM newest n WHERE n.nr = r.nr AND n.service_tier = e.tier AND NOT n.withdrawn))
), open AS (
    SELECT r.*, row_number() OVER (PARTITION BY r.nr, r.unit, r.percent IS NULL ORDER BY r.tenant IS NOT NULL DESC,
        r.service_tier <> '' DESC, r.region <> '' DESC, r.processing <> '' DESC, r.time_window <> '' DESC,
        r.above DESC, r.revision DESC, r.price_id DESC) AS choice
    FROM in_context r
    WHERE r.above = 0 OR r.above < (SELECT c.quantity FROM counted c WHERE c.nr = r.nr AND c.unit = r.above_unit)
), says AS (
    -- Which cost is billed, by the tenant's own row, else by the common one; without any it is the computed cost.
    SELECT DISTINCT ON (s.nr) s.* FROM (
        SELECT DISTINCT ON (e.nr, p.tenant) e.nr, p.* FROM event e
        JOIN meter.prices p ON p.provider = e.provider AND p.unit = 'reported_cost' AND p.percent IS NULL
            AND p.revision <= e.price_revision AND (p.tenant IS NULL OR p.tenant = e.tenant) AND p.valid_from <= e.occurred_at
        ORDER BY e.nr, p.tenant, p.valid_from DESC, p.revision DESC, p.price_id DESC) s
    WHERE NOT s.withdrawn ORDER BY s.nr, s.tenant IS NULL
), billed AS (
    SELECT s.*, 1::bigint AS place, 1::bigint AS choice, p.percent AS changed, p.price_id AS changed_by
    FROM says s JOIN event e USING (nr)
    LEFT JOIN LATERAL (
        SELECT c.percent, c.price_id FROM open c
        WHERE s.tenant IS NULL AND c.nr = s.nr AND c.percent IS NOT NULL AND c.choice = 1 AND c.unit IN (s.unit, '*')
        ORDER BY c.unit = '*' LIMIT 1) p ON true
    WHERE s.rate = 1 AND e.reported_amount IS NOT NULL AND e.reported_currency <> 'XXX' AND e.pricing <> 'unmetered'
      AND NOT EXISTS (SELECT FROM ambiguous a WHERE a.nr = e.nr AND a.is_percent)
), chosen AS (
    SELECT o.*, p.percent AS changed, p.price_id AS changed_by FROM open o
    LEFT JOIN LATERAL (
        SELECT c.percent, c.price_id FROM open c
        WHERE o.tenant IS NULL AND c.nr = o.nr AND c.percent IS NOT NULL AND c.choice = 1 AND c.unit IN (o.unit, '*')
        ORDER BY c.unit = '*' LIMIT 1) p ON true
    WHERE o.percent IS NULL AND o.choice = 1
    UNION ALL SELECT * FROM billed
), payer AS (
    -- Each unit is paid by its own rate, else by the nearest total that has one; a priced part leaves its total's line.
    SELECT c.nr, c.unit, c.quantity, own.unit IS NOT NULL AS is_line, total.total
    FROM counted c LEFT JOIN chosen own ON own.nr = c.nr AND own.unit = c.unit
    LEFT JOIN LATERAL (
        SELECT a.total FROM above a JOIN chosen t ON t.nr = c.nr AND t.unit = a.total
        WHERE a.unit = c.unit ORDER BY a.distance LIMIT 1) total ON true
    WHERE NOT EXISTS (SELECT FROM billed b WHERE b.nr = c.nr)
), lines AS (
    SELECT p.nr, p.unit, p.quantity - coalesce((
        SELECT sum(part.quantity) FROM payer part WHERE part.nr = p.nr AND part.is_line AND part.total = p.unit), 0) AS quantity
    FROM payer p WHERE p.is_line
    UNION ALL SELECT b.nr, b.unit, e.reported_amount FROM billed b JOIN event e USING (nr)
), exact AS (
    SELECT l.nr, l.unit, l.quantity, l.quantity * c.rate * (100 + coalesce(c.changed, 0)) * 1e12 AS pico, c.per * 100::numeric AS divisor
    FROM lines l JOIN chosen c USING (nr, unit) WHERE l.quantity > 0 OR l.unit = 'reported_cost'
), rounded AS (
    -- Half to even, once a line; div() and what it leaves are exact.
    SELECT x.*, (q.whole + CASE WHEN 2 * (x.pico - q.whole * x.divisor) > x.divisor
                                  OR (2 * (x.pico - q.whole * x.divisor) = x.divisor AND mod(q.whole, 2) = 1)
                                THEN 1 ELSE 0 END) * 0.000000000001 AS line_amount
    FROM exact x CROSS JOIN LATERAL (SELECT div(x.pico, x.divisor) AS whole) q
), total AS (
    SELECT v.nr, v.obstacle, coalesce(b.currency, v.currency) AS currency, lacking.units AS lacking,
           CASE WHEN v.obstacle IS NULL AND lacking.units IS NULL AND (b.currency IS NOT NULL
                 OR (v.currency IS NOT NULL
                     AND EXISTS (SELECT FROM in_context c WHERE c.nr = v.nr AND (c.percent IS NULL OR c.above > 0))))
                THEN coalesce((SELECT sum(r.line_amount) FROM rounded r WHERE r.nr = v.nr), 0) END AS recomputed
    FROM verdict v CROSS JOIN LATERAL (
        SELECT string_agg(p.unit, ', ' ORDER BY p.unit) AS units
        FROM payer p WHERE p.nr = v.nr AND NOT p.is_line AND p.total IS NULL) lacking
    LEFT JOIN LATERAL (
        SELECT e.reported_currency AS currency FROM billed x JOIN event e USING (nr) WHERE x.nr = v.nr) b ON true
)
SELECT e.tenant, e.source, e.occurred_at, e.provider, e.model, e.pricing, e.price_revision, nullif(e.currency, 'XXX'), e.amount,
       r.unit, trim_scale(r.quantity), trim_scale(c.rate), c.per, c.changed, r.line_amount, (r.line_amount * 1e12 * r.divisor - r.pico) / r.divisor * 0.000000000001,
       c.price_id, c.tenant, c.match, c.model,
       CASE WHEN c.price_id IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object(
           'service_tier', nullif(c.service_tier, ''), 'region', nullif(c.region, ''), 'processing', nullif(c.processing, ''),
           'time_window', nullif(c.time_window, ''), 'above', nullif(c.above, 0), 'above_unit', CASE WHEN c.above > 0 THEN c.above_unit END)) END,
       c.valid_from, c.known_from, c.source, c.changed_by,
       t.recomputed,
       CASE WHEN e.pricing = 'unmetered' THEN true
            WHEN t.obstacle IS NULL THEN t.recomputed IS NOT DISTINCT FROM e.amount AND (e.amount IS NULL OR t.currency = e.currency) END,
       coalesce(t.obstacle, 'no price for ' || t.lacking),
       jsonb_strip_nulls(jsonb_build_object('service_tier', e.attributes ->> 'service_tier', 'region', nullif(e.region, ''),
           'processing', nullif(e.processing, '')))
FROM event e JOIN total t USING (nr)
LEFT JOIN rounded r ON r.nr = e.nr AND t.recomputed IS NOT NULL
LEFT JOIN chosen c ON c.nr = r.nr AND c.unit = r.unit
ORDER BY e.nr, r.unit
$$;
COMMENT ON FUNCTION meter.explain_cost IS 'The charge of an event line by line, computed again from the prices known at its revision. One row a line; one without unit where there is none: note says why. call_context: what of the call decides beside its model and quantities. Give the time of the event, too, where you know it: then an index serves it.';
REVOKE EXECUTE ON FUNCTION meter.explain_cost(text, timestamptz), meter.pattern_regex(text), meter.is_open(text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION meter.explain_cost(text, timestamptz), meter.pattern_regex(text), meter.is_open(text, timestamptz)
    TO meterstream_reader, meterstream_tenant;
GRANT SELECT ON meter.units TO meterstream_reader, meterstream_tenant;

-- ------------------------------------------------------------------------------------------------ settlements

CREATE TABLE meter.settlements (
    settlement_id    bigint GENERATED ALWAYS AS IDENTITY,
    source_id        smallint    NOT NULL,
    source_partition integer     NOT NULL,
    position         bigint      NOT NULL,
    action           text        NOT NULL,
    settled_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_by       text        NOT NULL DEFAULT session_user,
    note             text        NOT NULL,
    topic            text,
    edits            jsonb,
    CONSTRAINT settlements_pkey PRIMARY KEY (settlement_id),
    CONSTRAINT settlements_action_check CHECK (action IN ('replayed', 'skipped')),
    CONSTRAINT settlements_topic_check CHECK ((topic IS NOT NULL) = (action = 'replayed'))
);
COMMENT ON TABLE meter.settlements IS 'Rejected events that were sent again (where to, with which edits) or let be. Never updated.';
CREATE INDEX settlements_position_idx ON meter.settlements (source_id, source_partition, position);
CREATE TRIGGER settlements_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.settlements
    FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change();

-- As with `rejected` no tenant sees it: whose event it was nobody has checked.
ALTER TABLE meter.settlements ENABLE ROW LEVEL SECURITY;
CREATE POLICY settlements_reader ON meter.settlements FOR SELECT TO meterstream_reader USING (true);
GRANT SELECT ON meter.settlements TO meterstream_reader;

-- ------------------------------------------------------------------------------------------------ unmetered

CREATE INDEX ledger_unmetered_idx ON meter.ledger (occurred_at) WHERE pricing = 'unmetered';
CREATE VIEW meter.unmetered WITH (security_invoker = true) AS
SELECT tenant, (occurred_at AT TIME ZONE 'UTC')::date AS day, provider, model, attributes ->> 'unmetered_reason' AS reason,
       count(*) AS events, min(occurred_at) AS first_at, max(occurred_at) AS last_at,
       (array_agg(event_id ORDER BY occurred_at DESC))[1] AS last_event_id
FROM meter.ledger
WHERE pricing = 'unmetered'
GROUP BY 1, 2, 3, 4, 5;
COMMENT ON VIEW meter.unmetered IS 'What nobody knows the usage of, by UTC day and reason: the bodies are in meter.usage_events.';
GRANT SELECT ON meter.unmetered TO meterstream_reader, meterstream_tenant;

-- ------------------------------------------------------------------------------------------------ shipped prices

CREATE TABLE meter.shipped_prices (
    digest      text        NOT NULL,
    revision    integer     NOT NULL,
    prices      bigint      NOT NULL,
    compared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT shipped_prices_pkey PRIMARY KEY (digest)
);
COMMENT ON TABLE meter.shipped_prices IS 'The price book of this newest revision and this many prices has what the price files of this digest bring.';

ALTER TABLE meter.shipped_prices ENABLE ROW LEVEL SECURITY;
CREATE POLICY shipped_prices_reader ON meter.shipped_prices FOR SELECT TO meterstream_reader USING (true);
GRANT SELECT ON meter.shipped_prices TO meterstream_reader;
