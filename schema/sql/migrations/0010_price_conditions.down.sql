-- drops data
-- Without its conditions a price would hold for every call: what has some is an obstacle, not a loss.
DO $$
BEGIN
    IF EXISTS (SELECT FROM meter.prices WHERE match <> 'exact' OR service_tier <> '' OR region <> ''
               OR processing <> '' OR time_window <> '' OR above <> 0 OR percent IS NOT NULL) THEN
        RAISE EXCEPTION 'there are prices with conditions, which the earlier version would apply to every call';
    END IF;
END
$$;
ALTER TABLE meter.prices
    DROP CONSTRAINT prices_conditions_check,
    DROP COLUMN match,
    DROP COLUMN service_tier,
    DROP COLUMN region,
    DROP COLUMN processing,
    DROP COLUMN time_window,
    DROP COLUMN above,
    DROP COLUMN above_unit,
    DROP COLUMN percent;
