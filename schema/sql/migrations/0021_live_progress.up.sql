-- How far live counting is, as usage.aggregates says: whoever shows stored sums of budgets can tell what they lack.
-- NULL until the next progress comes.
ALTER TABLE meter.sink_positions ADD COLUMN counted_offset bigint, ADD COLUMN counted_watermark timestamptz;
COMMENT ON COLUMN meter.sink_positions.counted_offset IS 'Of usage.aggregates: everything before this offset of usage.priced is counted in what is stored. NULL: nobody has said yet.';
COMMENT ON COLUMN meter.sink_positions.counted_watermark IS 'Of usage.aggregates: the highest append time before counted_offset.';
