-- drops data
DROP TABLE meter.settlements;
