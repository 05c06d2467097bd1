-- Drops nothing that is missed: `prepare` compares again.
DROP TABLE meter.shipped_prices;
