-- explain_cost has the line of a reported cost of zero, too: its row says why it is billed.

CREATE OR REPLACE FUNCTION meter.explain_cost(event_id text, occurred_at timestamptz DEFAULT NULL)
RETURNS TABLE (
    tenant text, source text, happened_at timestamptz, provider text, model text, pricing text, price_revision integer,
    currency text, amount numeric, unit text, quantity numeric, rate numeric, per bigint, percent numeric,
    line_amount numeric, rounding numeric, price_id bigint, price_tenant text, price_match text, price_model text,
    price_conditions jsonb, valid_from timestamptz, known_from timestamptz, price_source text, percent_price_id bigint,
    recomputed numeric, is_equal boolean, note text, call_context jsonb)
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
WITH RECURSIVE event AS (
    SELECT l.*, row_number() OVER (ORDER BY l.tenant, l.source, l.occurred_at, l.source_id, l.source_partition, l.position) AS nr,
           -- the name without its date, the tier by its one name, and what a call says of how it was processed
           substring(l.model FROM '^(.+)[-@](?:20[0-9][0-9]-(?:0[1-9]|1[0-2])-[0-3][0-9]|20[0-9][0-9](?:0[1-9]|1[0-2])[0-3][0-9])$') AS undated,
           CASE WHEN lower(coalesce(l.attributes ->> 'service_tier', '')) IN ('', 'auto', 'default', 'on_demand')
                  OR (l.provider, lower(l.attributes ->> 'service_tier')) = ('groq', 'flex')
                THEN 'standard' ELSE lower(l.attributes ->> 'service_tier') END AS tier,
           coalesce(l.attributes ->> 'region', '') AS region,
           coalesce(l.tags ->> 'processing', '') AS processing
    FROM meter.ledger l
    WHERE l.event_id = explain_cost.event_id
      AND (explain_cost.occurred_at IS NULL OR l.occurred_at = explain_cost.occurred_at)
), counted AS (
    SELECT e.nr, c.unit, c.quantity FROM event e CROSS JOIN LATERAL (
        VALUES ('input_tokens', e.input_tokens::numeric), ('output_tokens', e.output_tokens),
               ('cache_read_tokens', e.cache_read_tokens), ('cache_write_tokens', e.cache_write_tokens),
               ('reasoning_tokens', e.reasoning_tokens)
        UNION ALL SELECT q.key, q.value::numeric FROM jsonb_each_text(e.quantities) q) c (unit, quantity)
    WHERE c.quantity > 0
    UNION ALL
    -- A call that counted nothing is one request; one that said zero was charged zero, and the ledger shows no other trace.
    SELECT e.nr, 'requests', 1 FROM event e
    WHERE e.pricing <> 'unmetered' AND e.amount IS DISTINCT FROM 0 AND e.quantities IS NULL
      AND e.input_tokens + e.output_tokens + e.cache_read_tokens + e.cache_write_tokens + e.reasoning_tokens = 0
), above AS (
    SELECT u.unit, u.parent AS total, 1 AS distance FROM meter.units u WHERE u.parent IS NOT NULL
    UNION ALL SELECT a.unit, u.parent, a.distance + 1 FROM above a JOIN meter.units u ON u.unit = a.total WHERE u.parent IS NOT NULL
), fitting AS (
    -- Whose rows that have begun, and which kind of name fits: the first kind that does decides, whatever its rows say.
    SELECT e.nr, p.*, rank() OVER (PARTITION BY e.nr, p.tenant, p.percent IS NULL ORDER BY f.kind, f.length DESC) AS place
    FROM event e
    JOIN meter.prices p ON p.provider = e.provider AND p.revision <= e.price_revision AND (p.tenant IS NULL OR p.tenant = e.tenant)
        AND p.valid_from <= e.occurred_at
    CROSS JOIN LATERAL (SELECT
        CASE WHEN p.match = 'exact' AND p.model = e.model THEN 1
             WHEN p.match = 'exact' AND p.model = e.undated THEN 2
             WHEN p.match = 'prefix' AND starts_with(e.model, p.model) THEN 3
             WHEN p.match = 'pattern' AND e.model <> '' AND e.model ~ meter.pattern_regex(p.model) THEN 4 END AS kind,
        CASE WHEN p.match = 'prefix' THEN length(p.model) ELSE 0 END AS length) f
    WHERE f.kind IS NOT NULL AND (p.unit <> 'reported_cost' OR p.percent IS NOT NULL)
), newest AS (
    SELECT DISTINCT ON (f.nr, f.tenant, f.percent IS NULL, f.match, f.model, f.unit, f.service_tier, f.region, f.processing,
                        f.time_window, f.above, CASE WHEN f.above > 0 THEN f.above_unit END) f.*
    FROM fitting f
    WHERE f.place = 1
    ORDER BY f.nr, f.tenant, f.percent IS NULL, f.match, f.model, f.unit, f.service_tier, f.region, f.processing, f.time_window,
             f.above, CASE WHEN f.above > 0 THEN f.above_unit END, f.valid_from DESC, f.revision DESC, f.price_id DESC
), reached AS (
    -- In force, without common rates of a unit for which the tenant has its own for every call.
    SELECT n.* FROM newest n
    WHERE NOT n.withdrawn AND (n.tenant IS NOT NULL OR NOT EXISTS (
        SELECT FROM newest o WHERE o.nr = n.nr AND o.unit = n.unit AND o.tenant IS NOT NULL AND NOT o.withdrawn AND o.percent IS NULL
        AND o.service_tier = '' AND o.region = '' AND o.processing = '' AND o.time_window = '' AND o.above = 0))
), ambiguous AS (
    -- Two patterns that stand for the same model: nobody knows which was meant.
    SELECT DISTINCT r.nr, r.percent IS NOT NULL AS is_percent FROM reached r WHERE r.match = 'pattern'
    GROUP BY r.nr, r.tenant, r.percent IS NOT NULL HAVING count(DISTINCT r.model) > 1
), verdict AS (
    SELECT e.nr, (SELECT CASE count(DISTINCT r.currency) WHEN 1 THEN min(r.currency) END
                  FROM reached r WHERE r.nr = e.nr AND r.percent IS NULL
                  AND NOT EXISTS (SELECT FROM ambiguous a WHERE a.nr = e.nr)) AS currency,
           CASE WHEN e.pricing = 'unmetered' THEN 'unmetered: ' || coalesce(e.attributes ->> 'unmetered_reason', '') END AS obstacle
    FROM event e
), in_context AS (
    SELECT r.* FROM reached r JOIN event e USING (nr) JOIN verdict v USING (nr)
    WHERE v.obstacle IS NULL AND (v.currency IS NOT NULL OR r.percent IS NOT NULL)
      AND r.service_tier IN ('', e.tier) AND r.region IN ('', e.region) AND r.processing IN ('', e.processing)
      AND (r.time_window = '' OR meter.is_open(r.time_window, e.occurred_at))
      -- a tier that no row names has a price that nobody has said: only what was agreed with the tenant holds for it
      AND (e.tier = 'standard' OR r.tenant IS NOT NULL
           OR EXISTS (SELECT FROM newest n WHERE n.nr = r.nr AND n.service_tier = e.tier AND NOT n.withdrawn))
), open AS (
    SELECT r.*, row_number() OVER (PARTITION BY r.nr, r.unit, r.percent IS NULL ORDER BY r.tenant IS NOT NULL DESC,
        r.service_tier <> '' DESC, r.region <> '' DESC, r.processing <> '' DESC, r.time_window <> '' DESC,
        r.above DESC, r.revision DESC, r.price_id DESC) AS choice
    FROM in_context r
    WHERE r.above = 0 OR r.above < (SELECT c.quantity FROM counted c WHERE c.nr = r.nr AND c.unit = r.above_unit)
), says AS (
    -- Which cost is billed, by the tenant's own row, else by the common one; without any it is the computed cost.
    SELECT DISTINCT ON (s.nr) s.* FROM (
        SELECT DISTINCT ON (e.nr, p.tenant) e.nr, p.* FROM event e
        JOIN meter.prices p ON p.provider = e.provider AND p.unit = 'reported_cost' AND p.percent IS NULL
            AND p.revision <= e.price_revision AND (p.tenant IS NULL OR p.tenant = e.tenant) AND p.valid_from <= e.occurred_at
        ORDER BY e.nr, p.tenant, p.valid_from DESC, p.revision DESC, p.price_id DESC) s
    WHERE NOT s.withdrawn ORDER BY s.nr, s.tenant IS NULL
), billed AS (
    SELECT s.*, 1::bigint AS place, 1::bigint AS choice, p.percent AS changed, p.price_id AS changed_by
    FROM says s JOIN event e USING (nr)
    LEFT JOIN LATERAL (
        SELECT c.percent, c.price_id FROM open c
        WHERE s.tenant IS NULL AND c.nr = s.nr AND c.percent IS NOT NULL AND c.choice = 1 AND c.unit IN (s.unit, '*')
        ORDER BY c.unit = '*' LIMIT 1) p ON true
    WHERE s.rate = 1 AND e.reported_amount IS NOT NULL AND e.reported_currency <> 'XXX' AND e.pricing <> 'unmetered'
      AND NOT EXISTS (SELECT FROM ambiguous a WHERE a.nr = e.nr AND a.is_percent)
), chosen AS (
    SELECT o.*, p.percent AS changed, p.price_id AS changed_by FROM open o
    LEFT JOIN LATERAL (
        SELECT c.percent, c.price_id FROM open c
        WHERE o.tenant IS NULL AND c.nr = o.nr AND c.percent IS NOT NULL AND c.choice = 1 AND c.unit IN (o.unit, '*')
        ORDER BY c.unit = '*' LIMIT 1) p ON true
    WHERE o.percent IS NULL AND o.choice = 1
    UNION ALL SELECT * FROM billed
), payer AS (
    -- Each unit is paid by its own rate, else by the nearest total that has one; a priced part leaves its total's line.
    SELECT c.nr, c.unit, c.quantity, own.unit IS NOT NULL AS is_line, total.total
    FROM counted c LEFT JOIN chosen own ON own.nr = c.nr AND own.unit = c.unit
    LEFT JOIN LATERAL (
        SELECT a.total FROM above a JOIN chosen t ON t.nr = c.nr AND t.unit = a.total
        WHERE a.unit = c.unit ORDER BY a.distance LIMIT 1) total ON true
    WHERE NOT EXISTS (SELECT FROM billed b WHERE b.nr = c.nr)
), lines AS (
    SELECT p.nr, p.unit, p.quantity - coalesce((
        SELECT sum(part.quantity) FROM payer part WHERE part.nr = p.nr AND part.is_line AND part.total = p.unit), 0) AS quantity
    FROM payer p WHERE p.is_line
    UNION ALL SELECT b.nr, b.unit, e.reported_amount FROM billed b JOIN event e USING (nr)
), exact AS (
    SELECT l.nr, l.unit, l.quantity, l.quantity * c.rate * (100 + coalesce(c.changed, 0)) * 1e12 AS pico, c.per * 100::numeric AS divisor
    FROM lines l JOIN chosen c USING (nr, unit) WHERE l.quantity > 0 OR l.unit = 'reported_cost'
), rounded AS (
    -- Half to even, once a line; div() and what it leaves are exact.
    SELECT x.*, (q.whole + CASE WHEN 2 * (x.pico - q.whole * x.divisor) > x.divisor
                                  OR (2 * (x.pico - q.whole * x.divisor) = x.divisor AND mod(q.whole, 2) = 1)
                                THEN 1 ELSE 0 END) * 0.000000000001 AS line_amount
    FROM exact x CROSS JOIN LATERAL (SELECT div(x.pico, x.divisor) AS whole) q
), total AS (
    SELECT v.nr, v.obstacle, coalesce(b.currency, v.currency) AS currency, lacking.units AS lacking,
           CASE WHEN v.obstacle IS NULL AND lacking.units IS NULL AND (b.currency IS NOT NULL
                 OR (v.currency IS NOT NULL
                     AND EXISTS (SELECT FROM in_context c WHERE c.nr = v.nr AND (c.percent IS NULL OR c.above > 0))))
                THEN coalesce((SELECT sum(r.line_amount) FROM rounded r WHERE r.nr = v.nr), 0) END AS recomputed
    FROM verdict v CROSS JOIN LATERAL (
        SELECT string_agg(p.unit, ', ' ORDER BY p.unit) AS units
        FROM payer p WHERE p.nr = v.nr AND NOT p.is_line AND p.total IS NULL) lacking
    LEFT JOIN LATERAL (
        SELECT e.reported_currency AS currency FROM billed x JOIN event e USING (nr) WHERE x.nr = v.nr) b ON true
)
SELECT e.tenant, e.source, e.occurred_at, e.provider, e.model, e.pricing, e.price_revision, nullif(e.currency, 'XXX'), e.amount,
       r.unit, trim_scale(r.quantity), trim_scale(c.rate), c.per, c.changed, r.line_amount, (r.line_amount * 1e12 * r.divisor - r.pico) / r.divisor * 0.000000000001,
       c.price_id, c.tenant, c.match, c.model,
       CASE WHEN c.price_id IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object(
           'service_tier', nullif(c.service_tier, ''), 'region', nullif(c.region, ''), 'processing', nullif(c.processing, ''),
           'time_window', nullif(c.time_window, ''), 'above', nullif(c.above, 0), 'above_unit', CASE WHEN c.above > 0 THEN c.above_unit END)) END,
       c.valid_from, c.known_from, c.source, c.changed_by,
       t.recomputed,
       CASE WHEN e.pricing = 'unmetered' THEN true
            WHEN t.obstacle IS NULL THEN t.recomputed IS NOT DISTINCT FROM e.amount AND (e.amount IS NULL OR t.currency = e.currency) END,
       coalesce(t.obstacle, 'no price for ' || t.lacking),
       jsonb_strip_nulls(jsonb_build_object('service_tier', e.attributes ->> 'service_tier', 'region', nullif(e.region, ''),
           'processing', nullif(e.processing, '')))
FROM event e JOIN total t USING (nr)
LEFT JOIN rounded r ON r.nr = e.nr AND t.recomputed IS NOT NULL
LEFT JOIN chosen c ON c.nr = r.nr AND c.unit = r.unit
ORDER BY e.nr, r.unit
$$;
