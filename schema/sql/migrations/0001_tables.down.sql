-- drops data
DROP TABLE meter.tenant_logins, meter.tenants, meter.prices, meter.price_revisions, meter.rollup_daily,
    meter.rollup_hourly, meter.rejected, meter.duplicates, meter.adjustments, meter.ledger, meter.claims_hashed,
    meter.claims_timed, meter.sink_positions, meter.sources;
DROP FUNCTION meter.refuse_change();
