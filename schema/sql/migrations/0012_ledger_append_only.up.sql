-- The ledger and each of its leaves are guarded as adjustments and prices are. A trigger of a statement that is no
-- INSERT costs an INSERT or a COPY nothing. Leaves may still be detached and dropped whole.

CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.ledger
    FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change();
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN SELECT leaf FROM meter.leaves WHERE parent = 'ledger' LOOP
        EXECUTE format('CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON meter.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION meter.refuse_change()', held.leaf);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION meter.attach_leaf(parent text, leaf text, bounds text, fill integer DEFAULT 100) RETURNS text
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
