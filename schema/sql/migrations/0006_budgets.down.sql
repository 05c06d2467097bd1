-- drops data
DROP VIEW meter.budget_alerts;
DROP VIEW meter.budget_status;
DROP VIEW meter.current_budgets;
DROP TABLE meter.alerts;
DROP TABLE meter.budget_states;
DROP TABLE meter.budgets;
