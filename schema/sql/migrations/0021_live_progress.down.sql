-- Drops nothing that is missed: it comes again with the next progress.
ALTER TABLE meter.sink_positions DROP COLUMN counted_watermark, DROP COLUMN counted_offset;
