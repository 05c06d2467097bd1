DROP TABLE meter.shipped_prices;
