-- Of these moments in these tables, the ones that no leaf holds.
WITH leaves AS MATERIALIZED (SELECT parent, lower_at, upper_at FROM meter.leaves WHERE lower_at IS NOT NULL)
SELECT w.parent, w.moment
FROM unnest($1::text[], $2::timestamptz[]) AS w (parent, moment)
WHERE NOT EXISTS (
    SELECT FROM leaves l WHERE l.parent = w.parent AND w.moment >= l.lower_at AND w.moment < l.upper_at
)
