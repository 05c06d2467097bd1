-- Claims are kept as long as a record may wait in the topics, on top of the window in which an id may come again.

CREATE OR REPLACE FUNCTION meter.drop_expired(before timestamptz) RETURNS text
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
