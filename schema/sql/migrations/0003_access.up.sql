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
