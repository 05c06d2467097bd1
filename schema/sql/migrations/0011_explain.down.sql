DROP FUNCTION meter.explain_cost(text, timestamptz);
DROP VIEW meter.units;
