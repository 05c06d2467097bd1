-- Lets go of the states of budgets that were removed.
DELETE FROM meter.budget_states s
USING unnest($1::text[], $2::text[]) AS g (tenant, name)
WHERE s.tenant = g.tenant AND s.name = g.name
