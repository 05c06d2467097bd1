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
    CONSTRAINT sink_positions_pkey PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE meter.sink_positions IS 'How far the sink is; moved in the transaction that stores the rows.';
COMMENT ON COLUMN meter.sink_positions.epoch IS 'Rises with every claim of the partition; a process with an older one is refused.';
COMMENT ON COLUMN meter.sink_positions.covered IS '{"source_id/partition": highest position stored}.';

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
        (pricing = 'priced' AND amount IS NOT NULL) OR (pricing = 'unpriced' AND amount IS NULL)
    )
) PARTITION BY RANGE (occurred_at);
COMMENT ON TABLE meter.ledger IS 'Every event that counts, once, with its charge. Never updated; read it through the view usage_events.';
COMMENT ON COLUMN meter.ledger.position IS 'Kafka offset << 20 | place in the array as sent.';
COMMENT ON COLUMN meter.ledger.amount IS 'NULL: there was no price yet; an adjustment charges it later.';
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
    CONSTRAINT prices_pkey PRIMARY KEY (price_id),
    CONSTRAINT prices_revision_fkey FOREIGN KEY (revision) REFERENCES meter.price_revisions (revision),
    CONSTRAINT prices_rate_check CHECK (rate >= 0 AND per > 0)
);
COMMENT ON TABLE meter.prices IS '`rate` of `currency` for `per` units, from valid_from until the next known row begins. Only ever appended.';
COMMENT ON COLUMN meter.prices.tenant IS 'NULL: for every tenant that has no price of its own.';
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
