"""The results of a demo as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from meterstream.deploy.demo.budgets import Alerted, Budgeted
from meterstream.deploy.demo.results import Outcome, Results, Spend
from meterstream.schema.money import NO_CURRENCY, format_amount, to_pico
from meterstream.schema.rejection import REASONS
from meterstream.sinks.postgres.verify import Check

CHART_ROWS: Final = 6
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_ASCII: Final = " .:#"

# What has no price yet (currency XXX) has neither a currency nor an amount: blank, not zero.
TRY: Final = (
    (
        "What each model cost, by day",
        "SELECT day, provider, model, nullif(currency, 'XXX') AS currency, sum(events) AS events, "
        "sum(unpriced_events) AS unpriced, sum(total_amount) FILTER (WHERE currency <> 'XXX') AS amount "
        "FROM meter.spend_by_model GROUP BY 1, 2, 3, 4 ORDER BY 1, 7 DESC NULLS LAST;",
    ),
    (
        "One tenant's projects, with the share of input that came from a cache",
        "SELECT project_id, nullif(currency, 'XXX') AS currency, sum(events) AS events, "
        "sum(unpriced_events) AS unpriced, sum(total_amount) FILTER (WHERE currency <> 'XXX') AS amount, "
        "round(sum(cache_read_tokens) / nullif(sum(input_tokens), 0), 3) AS cached "
        "FROM meter.usage_hourly WHERE tenant = 'aurora-health' GROUP BY 1, 2 ORDER BY 5 DESC NULLS LAST;",
    ),
    (
        "Where the budgets stand, and what they raised",
        "SELECT s.tenant, s.name, s.amount, s.spent, s.percent, s.currency, s.resets_at, a.percent AS alert, "
        "a.spent AS spent_then, a.event_id FROM meter.budget_status s LEFT JOIN meter.budget_alerts a "
        "ON (a.tenant, a.budget, a.version) = (s.tenant, s.name, s.version) ORDER BY s.tenant, s.name, a.percent;",
    ),
    (
        "What was refused, and why",
        "SELECT reason, tenant, left(detail, 60) AS detail, left(encode(value, 'escape'), 40) AS record "
        "FROM meter.rejected ORDER BY appended_at DESC LIMIT 20;",
    ),
)
"""Queries that are worth trying: (what they show, SQL on one line for psql)."""


def render(outcome: Outcome, *, is_unicode: bool) -> str:
    """Everything for a person; lines end without blanks."""
    parts = (
        _counts(outcome),
        _spend("Spend by model", outcome.results.by_model),
        _spend("Spend by tenant", [row for row in outcome.results.by_tenant if row.currency != NO_CURRENCY]),
        _totals(outcome.results.totals),
        _curve(outcome.results, is_unicode=is_unicode),
        _budgets(outcome.alerted),
        _verdict(outcome),
        _what_next(outcome),
    )
    return "\n".join(line.rstrip() for part in parts for line in ("", *part))


def to_json(outcome: Outcome) -> str:
    """One JSON object on one line; amounts are decimal text."""
    results = outcome.results
    counts = results.counts
    raw = outcome.verified.raw or ()
    content = {
        "source": outcome.source,
        "sent": outcome.sent,
        "ledger": counts.ledger,
        "duplicates": counts.duplicates,
        "rejected": counts.rejected,
        "rejected_by_reason": dict(results.rejected),
        "unpriced": results.unpriced,
        "spend": [_sum(row, "currency") for row in results.totals],
        "spend_by_model": [_sum(row, "model") for row in results.by_model],
        "spend_by_tenant": [_sum(row, "tenant") for row in results.by_tenant],
        "hours_currency": results.hours_currency,
        "hours": [
            {"hour": row.hour, "events": row.events, "amount": format_amount(to_pico(row.amount))}
            for row in results.hours
        ],
        "budgets": [_budget(row) for row in outcome.alerted.budgets],
        "alerts_predicted": outcome.alerted.predicted,
        "alert_differences": outcome.alerted.differences,
        "verified": {
            "is_good": outcome.verified.is_good,
            "checks": [{"name": c.name, "compared": c.compared, "different": c.different} for c in _checks(outcome)]
            + [{"name": p.name, "compared": p.positions, "different": p.different} for p in raw],
        },
        "is_good": outcome.is_good,
        "seconds": {"ready": round(outcome.ready_s, 3), "stored": round(outcome.stored_s, 3)},
        "psql": outcome.psql,
        "is_kept": outcome.is_kept,
    }
    return msgspec.json.encode(content).decode()


def _sum(row: Spend, name: str) -> dict[str, object]:
    named = {} if name == "currency" else {name: row.name}
    return named | {
        "currency": row.currency,
        "events": row.events,
        "unpriced": row.unpriced,
        "amount": row.text,  # null: nothing of it has a price
    }


def _budget(row: Budgeted) -> dict[str, object]:
    return {"state": row.state, "alerts": row.alerts}  # as they are in the topics


def _counts(outcome: Outcome) -> list[str]:
    results = outcome.results
    counts = results.counts
    return [
        f"{outcome.sent:>7,} events sent, all accounted for {outcome.stored_s:.1f} s after the first was sent",
        f"{counts.ledger:>7,} in the ledger, {results.unpriced:,} of them of a model that has no price yet",
        f"{counts.duplicates:>7,} came again: counted once",
        f"{counts.rejected:>7,} rejected, kept with the reason:",
        *(f"{number:>11,} {reason:<21}{REASONS.get(reason, '')}" for reason, number in results.rejected.items()),
    ]


def _budgets(alerted: Alerted) -> list[str]:
    lines = ["Budgets of a project each, and the alerts that they raised"]
    for row in alerted.budgets:
        budget, state = row.budget, row.state
        where = f"{budget.tenant}, {budget.project_id}, {budget.amount} {budget.currency} a {budget.period}"
        lines.append(f"  {where}: spent {state.spent}, {state.percent} %")
        lines += [
            f"    {alert.data.percent:>3} % reached at {alert.data.spent} {alert.data.currency}"
            + (f", by event {alert.data.place.event_id}" if alert.data.place else "")
            for alert in row.alerts
        ]
    raised = sum(len(row.alerts) for row in alerted.budgets)
    different = len(alerted.differences)
    lines.append(
        f"{raised} {'alert' if raised == 1 else 'alerts'} raised, {alerted.predicted} predicted from the ledger, "
        f"{different} {'difference' if different == 1 else 'differences'}"
    )
    return lines + [f"  {difference}" for difference in alerted.differences]


def _verdict(outcome: Outcome) -> list[str]:
    raw = outcome.verified.raw or ()
    checks = [
        f"  {check.name:<26}{check.compared:>9,} {check.unit}, {check.different:,} different"
        for check in _checks(outcome)
    ]
    checks += [f"  {part.name:<26}{part.positions:>9,} positions, {part.different:,} different" for part in raw]
    return ["Verified:" if outcome.is_good else "NOT in agreement, see `meterstream verify --raw`:", *checks]


def _checks(outcome: Outcome) -> tuple[Check, ...]:
    live = outcome.verified.live
    return (*outcome.verified.report.checks, *((live.windows, live.budgets) if live else ()))


def _what_next(outcome: Outcome) -> list[str]:
    queries = [line for what, query in TRY for line in ("", f"  -- {what}", f"  {query}")]
    if outcome.is_kept:
        return ["Look around, the servers are running:", f"  {outcome.psql}", *queries, "", "Stop it: meterstream down"]
    return [
        "Everything is stopped, the data are kept. To look around:",
        "  meterstream up",
        f"  {outcome.psql}",
        *queries,
        "",
        "Stop it again: meterstream down",
    ]


def columns(values: Sequence[Decimal], *, rows: int, is_unicode: bool) -> list[str]:
    """A column chart: one character a value, `rows` lines, the highest value as high as the chart."""
    levels = _EIGHTHS if is_unicode else _ASCII
    steps = len(levels) - 1
    highest = max(values, default=Decimal(0))
    # The smallest value above zero still shows.
    heights = [max(int(value * rows * steps / highest), 1) if value > 0 else 0 for value in values]
    return [
        "".join(levels[min(max(height - row * steps, 0), steps)] for height in heights) for row in reversed(range(rows))
    ]


def _totals(totals: Iterable[Spend]) -> list[str]:
    return [
        f"Total {total.text} {total.currency} for {total.events:,} events: exact, to the last of 12 decimal places"
        for total in totals
        if total.amount is not None
    ]


def _spend(title: str, rows: Sequence[Spend]) -> list[str]:
    width = max(len(title), *(len(row.name) for row in rows)) if rows else len(title)
    lines = [f"{title:<{width + 2}}{'events':>9}{'amount':>21}"]
    for row in rows:
        amount = "no price yet" if row.amount is None else f"{row.amount:,.6f} {row.currency}"
        lines.append(f"  {row.name:<{width}}{row.events:>9,}{amount:>21}")
    return lines


def _curve(results: Results, *, is_unicode: bool) -> list[str]:
    hours = results.hours
    if not hours or results.hours_currency is None:
        return []
    highest = max(hours, key=lambda hour: hour.amount)
    chart = columns([hour.amount for hour in hours], rows=CHART_ROWS, is_unicode=is_unicode)
    # Two characters an hour: room for the hours below.
    wide = ["".join(character * 2 for character in line) for line in chart]
    axis = "".join(f"{hour.hour:%H}" if number % 3 == 0 else "  " for number, hour in enumerate(hours))
    return [
        f"Spend by hour (UTC), highest {highest.amount:,.2f} {results.hours_currency} at {highest.hour:%H}:00",
        *(f"  {line}" for line in wide),
        f"  {axis}",
    ]
