-- What was done about rejected events: who sent one again or let it be, when and why. Only ever appended.

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
