DROP TABLE meter.settlements;
