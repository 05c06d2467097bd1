DROP VIEW meter.spend_by_model;
DROP VIEW meter.usage_daily;
DROP VIEW meter.usage_hourly;
DROP VIEW meter.usage_events;
