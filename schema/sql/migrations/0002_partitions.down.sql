DROP FUNCTION meter.drop_expired(timestamptz);
DROP FUNCTION meter.ensure_claims_hashed(integer);
DROP FUNCTION meter.ensure_claims_timed(date);
DROP FUNCTION meter.ensure_partition(text, timestamptz, text);
DROP FUNCTION meter.attach_leaf(text, text, text, integer);
DROP FUNCTION meter.claim_bound(timestamptz);
DROP VIEW meter.leaves;
