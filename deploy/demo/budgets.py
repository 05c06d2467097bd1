"""The demo's budgets, and the alerts that they must raise: derived from the ledger, by an arithmetic of its own.

A budget is of one project of one tenant, and of one run: it begins at zero, whatever an earlier demo has left.
"""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

import msgspec

from meterstream.deploy.connections import Connection
from meterstream.deploy.live import budgets
from meterstream.processors.aggregation.periods import Calendar
from meterstream.producers.simulate_totals import CURRENCY, SimulationTotals, shipped_rates
from meterstream.producers.simulated import SimulatedRecord
from meterstream.schema.aggregate import BudgetState
from meterstream.schema.alert import Alert
from meterstream.schema.budget import Budget
from meterstream.schema.money import parse_amount, to_pico
from meterstream.schema.settings import Settings

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OF_A_RUN: Final = re.compile(r".+-\d{8}T\d{6}Z\Z")


class Plan(NamedTuple):
    """A budget of `share` of what the run will cost."""

    tenant: str
    project_id: str
    share: Fraction
    terms: dict[str, Any]


PLANS: Final = (
    Plan("aurora-health", "support-bot", Fraction(4, 5), {}),
    Plan("bluebird-bank", "ide-assistant", Fraction(6, 5), {"period": "week", "time_zone": "Europe/Berlin"}),
    Plan("cobalt-games", "search-assistant", Fraction(5, 2), {}),
)
"""One is spent, one nearly, one hardly. Days are too short: an event of the day before yesterday raises nothing."""


class Level(NamedTuple):
    """That a budget reached a level: what an alert must say."""

    tenant: str
    budget: str
    period_start: datetime
    percent: int
    spent_pico: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A budget at the end of the run, and the alerts that it raised, in the order in which they came."""

    budget: Budget
    state: BudgetState
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class Alerted:
    """`predicted`: how many alerts the ledger says there must be; `differences`: what is not as it says, in words."""

    budgets: tuple[Budgeted, ...]
    predicted: int
    differences: tuple[str, ...]


class Charge(NamedTuple):
    """A row of the ledger."""

    event_id: str
    occurred_at: datetime
    amount: Decimal


def planned(source: str, records: Iterable[SimulatedRecord]) -> list[dict[str, Any]]:
    """The fields of the run's budgets. The amounts come from the shipped prices; `source` names the run."""
    totals = SimulationTotals(shipped_rates())
    cost = {(plan.tenant, plan.project_id): Fraction(0) for plan in PLANS}
    tenants = {plan.tenant for plan in PLANS}
    for record in records:
        [event] = record.events
        if event.kind == "new" and event.tenant in tenants:
            key = event.tenant, msgspec.json.decode(record.value)["data"]["project_id"]
            if key in cost:
                cost[key] += totals.charge(event) or 0
    return [
        {
            "tenant": plan.tenant,
            "name": f"{plan.project_id}-{source.rpartition('/')[2]}",
            "amount": _cents(cost[plan.tenant, plan.project_id] * plan.share),
            "currency": CURRENCY,
            "project_id": plan.project_id,
            **plan.terms,
        }
        for plan in PLANS
    ]


def _cents(amount: Fraction) -> str:
    return str(Decimal(max(1, int(amount * 100))).scaleb(-2))


async def make(settings: Settings, wanted: Sequence[dict[str, Any]]) -> list[Budget]:
    """Stores and publishes them, and removes those of earlier runs. Blocks. Raises UsageError."""
    for row in await budgets.list_budgets(settings):
        if _OF_A_RUN.match(row.budget.name):
            await budgets.remove(settings, row.budget.tenant, row.budget.name)
    return [(await budgets.add(settings, fields)).budget for fields in wanted]


async def charges(connection: Connection, budget: Budget, source: str, since: datetime) -> list[Charge]:
    """What the budget must have counted, in the order in which it came. Blocks. Raises asyncpg errors."""
    rows = await connection.fetch(_CHARGES, source, since, budget.tenant, budget.project_id, budget.currency)
    return [Charge(*row) for row in rows]


# A tenant's events are in one partition of the topic, in the order in which they were sent.
_CHARGES: Final = """
    SELECT event_id, occurred_at, amount FROM meter.ledger
    WHERE source = $1 AND occurred_at >= $2 AND tenant = $3 AND project_id = $4 AND currency = $5
    ORDER BY source_id, source_partition, position
"""


def predicted(budget: Budget, counted: Iterable[Charge]) -> tuple[list[Level], dict[datetime, int]]:
    """-> (the levels that are reached, what is spent in each period, 1e-12)."""
    calendar = Calendar(budget)
    spent: defaultdict[datetime, int] = defaultdict(int)
    levels: list[Level] = []
    for charge in counted:
        start_ms = calendar.period_of((charge.occurred_at - _EPOCH) // timedelta(milliseconds=1)).start_ms
        start = _EPOCH + timedelta(milliseconds=start_ms)
        before = spent[start]
        after = spent[start] = before + to_pico(charge.amount)
        levels += [
            Level(budget.tenant, budget.name, start, percent, after, charge.event_id)
            for percent in budget.thresholds
            if before * 100 < percent * budget.amount_pico <= after * 100
        ]
    return levels, dict(spent)


def level_of(alert: Alert) -> Level:
    """What an alert says."""
    data = alert.data
    event_id = data.place.event_id if data.place else ""
    return Level(data.tenant, data.budget, data.period_start, data.percent, parse_amount(data.spent), event_id)


def compare(budget: Budget, counted: Iterable[Charge], state: BudgetState, raised: Iterable[Alert]) -> list[str]:
    """What is not as the ledger says, in words; empty: all is."""
    levels, spent = predicted(budget, counted)
    found = [level_of(alert) for alert in raised]
    differences = [f"must be raised, and is not: {level}" for level in (Tally(levels) - Tally(found)).elements()]
    differences += [f"is raised, and must not be: {level}" for level in (Tally(found) - Tally(levels)).elements()]
    must = spent.get(state.period_start, 0)
    if parse_amount(state.spent) != must:
        differences.append(f"{budget.tenant} {budget.name}: spent is {state.spent}, and must be {must} of 1e-12")
    return differences
