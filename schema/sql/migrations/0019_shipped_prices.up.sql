-- Which shipped price files were compared with which state of the price book: unchanged on both sides, there is nothing
-- to load, and nothing has to be parsed. A row is true for ever, so versions that take turns do not disturb each other.

CREATE TABLE meter.shipped_prices (
    digest      text        NOT NULL,
    revision    integer     NOT NULL,
    prices      bigint      NOT NULL,
    compared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT shipped_prices_pkey PRIMARY KEY (digest)
);
COMMENT ON TABLE meter.shipped_prices IS 'The price book of this newest revision and this many prices has what the price files of this digest bring.';

ALTER TABLE meter.shipped_prices ENABLE ROW LEVEL SECURITY;
CREATE POLICY shipped_prices_reader ON meter.shipped_prices FOR SELECT TO meterstream_reader USING (true);
GRANT SELECT ON meter.shipped_prices TO meterstream_reader;
