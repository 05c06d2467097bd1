REVOKE ALL ON ALL TABLES IN SCHEMA meter FROM meterstream_ingest, meterstream_reader, meterstream_tenant;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA meter FROM meterstream_ingest, meterstream_reader, meterstream_tenant;
REVOKE ALL ON SCHEMA meter FROM meterstream_ingest, meterstream_reader, meterstream_tenant;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA meter TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE meterstream_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC;

DO $$
DECLARE
    policy record;
    parent text;
BEGIN
    FOR policy IN SELECT policyname, tablename FROM pg_policies WHERE schemaname = 'meter'
    LOOP
        EXECUTE format('DROP POLICY %I ON meter.%I', policy.policyname, policy.tablename);
    END LOOP;
    -- The leaves keep row security: nobody reads them directly, with or without this migration.
    FOREACH parent IN ARRAY ARRAY['sources', 'sink_positions', 'claims_timed', 'claims_hashed', 'ledger', 'adjustments',
        'duplicates', 'rejected', 'rollup_hourly', 'rollup_daily', 'price_revisions', 'prices', 'tenants', 'tenant_logins']
    LOOP
        EXECUTE format('ALTER TABLE meter.%I DISABLE ROW LEVEL SECURITY', parent);
    END LOOP;
END
$$;
DROP FUNCTION meter.current_tenant();
