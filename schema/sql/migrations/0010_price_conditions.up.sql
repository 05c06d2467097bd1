-- Prices for some calls only. The defaults are what every price meant so far.
ALTER TABLE meter.prices
    ADD COLUMN match        text   NOT NULL DEFAULT 'exact',
    ADD COLUMN service_tier text   NOT NULL DEFAULT '',
    ADD COLUMN region       text   NOT NULL DEFAULT '',
    ADD COLUMN processing   text   NOT NULL DEFAULT '',
    ADD COLUMN time_window  text   NOT NULL DEFAULT '',
    ADD COLUMN above        bigint NOT NULL DEFAULT 0,
    ADD COLUMN above_unit   text   NOT NULL DEFAULT 'input_tokens',
    ADD COLUMN percent      numeric(10, 6),
    ADD CONSTRAINT prices_conditions_check CHECK (
        match IN ('exact', 'prefix', 'pattern') AND above >= 0
        AND (percent IS NULL OR (percent >= -100 AND tenant IS NOT NULL)));
COMMENT ON COLUMN meter.prices.match IS 'What model is: a name, a beginning of names, or a pattern.';
COMMENT ON COLUMN meter.prices.service_tier IS 'With region, processing and time_window: which calls it is for; empty: all.';
COMMENT ON COLUMN meter.prices.above IS 'Above 0: only for calls with more of above_unit than this.';
COMMENT ON COLUMN meter.prices.percent IS 'Of a tenant: this many percent on the common rate; rate means nothing then.';
