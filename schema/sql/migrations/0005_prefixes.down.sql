-- drops data
ALTER TABLE meter.sink_positions DROP COLUMN prefixes;
