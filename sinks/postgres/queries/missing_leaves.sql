-- Of these moments in these tables, the ones that no leaf holds.
SELECT w.parent, w.moment
FROM unnest($1::text[], $2::timestamptz[]) AS w (parent, moment)
WHERE NOT EXISTS (
    SELECT FROM meter.leaves l WHERE l.parent = w.parent AND w.moment >= l.lower_at AND w.moment < l.upper_at
)
