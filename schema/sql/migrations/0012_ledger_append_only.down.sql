CREATE OR REPLACE FUNCTION meter.attach_leaf(parent text, leaf text, bounds text, fill integer DEFAULT 100) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TABLE meter.%I (LIKE meter.%I INCLUDING ALL) WITH (fillfactor = %s)', leaf, parent, fill);
    EXECUTE format('ALTER TABLE meter.%I ENABLE ROW LEVEL SECURITY', leaf);
    EXECUTE format('ALTER TABLE meter.%I ATTACH PARTITION meter.%I %s', parent, leaf, bounds);
    RETURN leaf;
END
$$;

-- Also from leaves that were detached.
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN SELECT tgrelid::regclass AS name FROM pg_trigger
                WHERE tgname = 'ledger_append_only' AND tgfoid = 'meter.refuse_change()'::regprocedure
    LOOP
        EXECUTE format('DROP TRIGGER ledger_append_only ON %s', held.name);
    END LOOP;
END
$$;
