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
    cutoff timestamptz := least(before, now() - interval '45 days');
    generation_before integer := floor(extract(epoch FROM cutoff) / 86400 / 45)::integer;
    expired text;
BEGIN
    SELECT l.leaf INTO expired FROM meter.leaves l
    WHERE CASE l.parent
        WHEN 'claims_timed' THEN l.upper_bound::uuid <= meter.claim_bound(cutoff)
        -- the newest claim of generation g expires 45 days after the end of g
        WHEN 'claims_hashed' THEN l.lower_bound::integer < generation_before
        -- twice as long: time to look into them, to mend and to send again
        WHEN 'duplicates' THEN l.upper_at <= cutoff - interval '45 days'
        WHEN 'rejected' THEN l.upper_at <= cutoff - interval '45 days'
    END
    ORDER BY l.parent, l.leaf LIMIT 1;
    IF expired IS NOT NULL THEN
        EXECUTE format('DROP TABLE meter.%I', expired);
    END IF;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION meter.drop_expired IS 'Drops one leaf of claims, or of duplicates or rejected records 45 days older, that ended before this moment and 45 days ago; its name, or NULL when there is none.';
