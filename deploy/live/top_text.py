"""The live view as rows of a table, as plain text and as JSON. Pure."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from meterstream.deploy.cli.text import counted
from meterstream.deploy.live.view import Live, TenantNow
from meterstream.schema.aggregate import BudgetState
from meterstream.schema.money import format_amount

HEADINGS: Final = ("tenant", "events today", "events/s", "errors", "unpriced", "spent today", "budgets")
IS_RIGHT: Final = (False, True, True, True, True, True, False)
"""Which columns are set against their right edge."""
NOTHING: Final = "nothing has been counted today; `meterstream status` says whether the aggregator runs"


def rows(tenants: Sequence[TenantNow], now: datetime) -> list[tuple[str, ...]]:
    """One of HEADINGS a tenant, as text."""
    return [
        (
            tenant.tenant if tenant.tenant.isprintable() else ascii(tenant.tenant),
            f"{tenant.events:,}" + ("+" if tenant.is_partial else ""),
            f"{tenant.events_per_s:,.1f}",
            f"{tenant.errors:,}",
            f"{tenant.unpriced_events:,}",
            _amounts(tenant.spend_pico, is_partial=tenant.is_partial) or "-",
            ", ".join(budget_text(budget, now) for budget in tenant.budgets),
        )
        for tenant in tenants
    ]


def _amounts(spend_pico: Mapping[str, int], *, is_partial: bool) -> str:
    """`1.5+ USD, 2+ EUR`: at least so much, where it is partial."""
    more = "+" if is_partial else ""
    return ", ".join(f"{format_amount(pico)}{more} {currency}" for currency, pico in spend_pico.items())


def budget_text(budget: BudgetState, now: datetime) -> str:
    """`monthly 82.50%`; `at least` where events may be missing."""
    if budget.period_end <= now:
        return f"{budget.name} nothing this {budget.period}"
    known = "at least " if budget.provisional else ""
    return f"{budget.name} {known}{budget.percent}%"


def total(tenants: Sequence[TenantNow]) -> str:
    """One line over all tenants."""
    spend: Tally[str] = Tally()
    for tenant in tenants:
        spend.update(tenant.spend_pico)
    is_partial = any(tenant.is_partial for tenant in tenants)
    amounts = _amounts(dict(sorted(spend.items())), is_partial=is_partial) or "nothing"
    events = counted(sum(tenant.events for tenant in tenants), "event")
    if is_partial:
        events = events.replace(" ", "+ ", 1)
    rate = sum(tenant.events_per_s for tenant in tenants)
    who = counted(len(tenants), "tenant")
    return f"{who}, {events} today (UTC), {rate:,.1f} a second, spent {amounts}"


def notes(live: Live, tenants: Sequence[TenantNow], shown: int) -> list[str]:
    """What must be said below the table."""
    found = []
    if len(tenants) > shown:
        found.append(f"{counted(len(tenants) - shown, 'more tenant')}; --limit shows more")
    if any(tenant.is_partial for tenant in tenants):
        found.append("+ events of the day may be missing; Postgres has all of it")
    if live.uncounted:
        found.append(
            f"behind: {counted(live.uncounted, 'record')} of usage.priced not counted yet; `meterstream status` says "
            "whether the aggregator runs"
        )
    if live.newest_at is not None:
        found.append(f"as of {live.newest_at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}")
    return found


def plain(live: Live, now: datetime, limit: int) -> str:
    """Everything as text; lines end without blanks."""
    tenants = live.tenants(now)
    if not tenants:
        return "\n".join([NOTHING, *notes(live, tenants, 0)])
    table = [HEADINGS, *rows(tenants[:limit], now)]
    widths = [max(len(row[place]) for row in table) for place in range(len(HEADINGS))]
    lines = [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, IS_RIGHT, strict=True)
        ).rstrip()
        for row in table
    ]
    return "\n".join([*lines, "", total(tenants), *notes(live, tenants, limit)])


def to_json(live: Live, now: datetime, limit: int) -> str:
    """One JSON object on one line; amounts are decimal text, budgets as in `usage.aggregates`."""
    tenants = live.tenants(now)
    content = {
        "at": now,
        "newest_at": live.newest_at,
        "uncounted_records": live.uncounted,
        "tenants_total": len(tenants),
        "tenants": [_tenant(tenant) for tenant in tenants[:limit]],
    }
    return msgspec.json.encode(content).decode()


def _tenant(tenant: TenantNow) -> dict[str, Any]:
    return {
        "tenant": tenant.tenant,
        "events": tenant.events,
        "events_per_s": round(tenant.events_per_s, 3),
        "errors": tenant.errors,
        "unpriced_events": tenant.unpriced_events,
        "spend": [
            {"currency": currency, "amount": format_amount(pico)} for currency, pico in tenant.spend_pico.items()
        ],
        "partial": tenant.is_partial,
        "budgets": tenant.budgets,
    }
