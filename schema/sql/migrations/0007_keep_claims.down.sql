CREATE OR REPLACE FUNCTION meter.drop_expired(before timestamptz) RETURNS text
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
