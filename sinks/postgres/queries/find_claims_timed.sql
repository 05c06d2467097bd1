-- Claims of these keys; all keys lie within one day and within [$2, $3], so one leaf is looked at: by its index, since
-- the session plans no sequential scan. (SELECT $1): the planner would look through the keys for longer than it takes to
-- find them.
SELECT t.key, t.body FROM meter.claims_timed t WHERE t.key = ANY ((SELECT $1::uuid[])::uuid[]) AND t.key BETWEEN $2 AND $3
