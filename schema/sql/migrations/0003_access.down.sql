REVOKE ALL ON ALL TABLES IN SCHEMA meter FROM meterstream_ingest, meterstream_reader, meterstream_tenant;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA meter FROM meterstream_ingest, meterstream_reader, meterstream_tenant;
REVOKE ALL ON SCHEMA meter FROM meterstream_ingest, meterstream_reader, meterstream_tenant;
ALTER DEFAULT PRIVILEGES FOR ROLE meterstream_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC;

DO $$
DECLARE
    policy record;
BEGIN
    FOR policy IN SELECT policyname, tablename FROM pg_policies WHERE schemaname = 'meter'
    LOOP
        EXECUTE format('DROP POLICY %I ON meter.%I', policy.policyname, policy.tablename);
    END LOOP;
END
$$;
DROP FUNCTION meter.current_tenant();
