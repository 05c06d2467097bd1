-- The watermark of what is covered: it tells a repeat from a record of a source topic that was made anew.
ALTER TABLE meter.sink_positions ADD COLUMN prefixes jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN meter.sink_positions.prefixes IS '{"source_id/partition": [highest position stored, highest append time up to there in ms]}.';
