"""What the aggregator must have made of `usage.priced`, counted here by an arithmetic of its own, and compared.

The rows were compared with the simulator before (`checks.priced`). Here each of them counts once: a position that
came again and an id that came again do not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from meterstream.deploy.bench.broker import Broker, Offsets
from meterstream.deploy.bench.budgets import BenchBudget
from meterstream.schema.aggregate import BudgetState, Progress, Window, WindowKind, decode_aggregate
from meterstream.schema.alert import decode_alert
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.money import format_amount, parse_amount
from meterstream.schema.pack import COVERAGE_HEADERS, Pack, Row, decode_pack
from meterstream.schema.topics import AGGREGATES, ALERTS, PRICED, partitions_of

WINDOWS: Final[tuple[WindowKind, ...]] = ("hour", "day")
DIFFERENCES_SHOWN: Final = 3
_TOPICS: Final = (PRICED, AGGREGATES, ALERTS)

_WindowId = tuple[str, WindowKind, datetime]
_Sums = tuple[int, int, int, int]
"""(events, input tokens, output tokens, pico)"""


@dataclass(frozen=True)
class Compared:
    """What was equal."""

    windows: int
    budgets: int
    alerts: int
    counters: int
    """Live: one (tenant, provider, model, currency) in one hour or one day, or one period of one budget."""


class LiveTruth:
    """Reads on from where it stopped. Its budgets count what comes after they were added."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._read: dict[str, Offsets] = {name: dict.fromkeys(range(partitions_of(name)), 0) for name in _TOPICS}
        self._covered: dict[tuple[int, int, int], int] = {}
        self._claims: set[bytes] = set()
        self._sums: dict[_WindowId, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self._budgets: dict[str, list[BenchBudget]] = defaultdict(list)
        self._spent: Counter[tuple[str, str, datetime]] = Counter()
        """(tenant, budget, month) -> pico."""
        self._windows: dict[bytes, Window] = {}
        self._states: dict[tuple[str, str], BudgetState] = {}
        self._alerts: dict[str, tuple[str, str, datetime, int]] = {}
        self._watermark: datetime | None = None

    def add(self, budgets: Iterable[BenchBudget]) -> None:
        """Made now: what was not read before counts in them."""
        for budget in budgets:
            self._budgets[budget.tenant].append(budget)

    async def read_priced(self) -> int:
        """To the end of the topic as it is now; -> rows that were new."""
        rows = 0
        start, end = await self._next(PRICED)
        async for partition, records in self._broker.read(PRICED, start, end):
            for record in records:
                if record.headers != COVERAGE_HEADERS:
                    rows += self._take(partition, decode_pack(record.value))
        return rows

    async def read_aggregates(self) -> None:
        """To the end of the topic as it is now."""
        start, end = await self._next(AGGREGATES)
        async for _, records in self._broker.read(AGGREGATES, start, end):
            for record in records:
                if record.value is None:
                    self._windows.pop(record.key, None)
                    continue
                match decode_aggregate(record.value):
                    case Window() as window:
                        self._windows[record.key] = window
                    case BudgetState() as state:
                        self._states[state.tenant, state.name] = state
                    case Progress() as progress if progress.offset:
                        self._watermark = max(progress.watermark, self._watermark or progress.watermark)

    def are_known(self, budgets: Iterable[BenchBudget]) -> bool:
        """Whether the aggregator has published the state of each, as far as was read."""
        return all((budget.tenant, budget.name) in self._states for budget in budgets)

    async def check(self) -> Compared:
        """Every live window, every budget and every alert. Call it when the aggregator has ended.

        Raises MeterstreamError with the first differences.
        """
        await self.read_priced()
        await self.read_aggregates()
        await self._read_alerts()
        differences = [*self._window_differences(), *self._budget_differences(), *self._alert_differences()]
        if differences:
            raise MeterstreamError(
                f"the run is void: {len(differences)} differences in the aggregator's output: "
                + "; ".join(differences[:DIFFERENCES_SHOWN])
            )
        models = sum(len(window.models) for window in self._windows.values())
        return Compared(len(self._windows), len(self._states), len(self._alerts), models + len(self._states))

    # ------------------------------------------------------------------ what must be

    def _take(self, partition: int, pack: Pack) -> int:
        place = (partition, pack.source_id, pack.partition)
        covered = self._covered.get(place, -1)
        new = [row for row in pack.rows if row.position > covered and row.claim not in self._claims]
        self._covered[place] = max(covered, pack.hi)
        taken = 0
        for row in new:
            if row.claim not in self._claims:
                self._claims.add(row.claim)
                self._count(row)
                taken += 1
        return taken

    def _count(self, row: Row) -> None:
        amount_pico = row.amount_pico or 0
        hour = row.occurred_at.replace(minute=0, second=0, microsecond=0)
        for kind, start in (("hour", hour), ("day", hour.replace(hour=0))):
            sums = self._sums[row.tenant, "hour" if kind == "hour" else "day", start]
            sums[0] += 1
            sums[1] += row.input_tokens
            sums[2] += row.output_tokens
            sums[3] += amount_pico
        month = hour.replace(day=1, hour=0)
        for budget in self._budgets.get(row.tenant, ()):
            if budget.project_id in (None, row.project_id):
                self._spent[budget.tenant, budget.name, month] += amount_pico

    def _takes_events(self, kind: WindowKind, start: datetime) -> bool:
        """Whether every event of the window was in time; of an older one Postgres has all, not the aggregator."""
        assert self._watermark is not None
        hour = self._watermark.replace(minute=0, second=0, microsecond=0)
        if kind == "hour":
            return start >= hour - timedelta(hours=1)
        return start >= hour.replace(hour=0) - timedelta(days=1)

    # ------------------------------------------------------------------ what is

    def _window_differences(self) -> list[str]:
        found: dict[_WindowId, _Sums] = {
            (window.tenant, window.window, window.start): (
                sum(sums.events for sums in window.totals),
                sum(sums.input_tokens for sums in window.totals),
                sum(sums.output_tokens for sums in window.totals),
                sum(parse_amount(sums.amount or "0") for sums in window.totals),
            )
            for window in self._windows.values()
        }
        expected = {place: tuple(sums) for place, sums in self._sums.items() if self._takes_events(place[1], place[2])}
        return [
            f"{kind} {start:%Y-%m-%dT%H} of {tenant} is {found.get((tenant, kind, start))}, expected {sums}"
            for (tenant, kind, start), sums in expected.items()
            if found.get((tenant, kind, start)) != sums
        ]

    def _budget_differences(self) -> list[str]:
        differences = []
        for budget in (budget for budgets in self._budgets.values() for budget in budgets):
            state = self._states.get((budget.tenant, budget.name))
            if state is None:
                differences.append(f"budget {budget.name} of {budget.tenant} has no state")
                continue
            spent_pico = self._spent[budget.tenant, budget.name, state.period_start]
            expected = (format_amount(spent_pico), budget.reached(spent_pico))
            if (state.spent, set(state.reached)) != expected:
                differences.append(
                    f"budget {budget.name} of {budget.tenant}: {state.spent}, reached {state.reached}; "
                    f"expected {expected}"
                )
        return differences

    def _alert_differences(self) -> list[str]:
        named = {(budget.tenant, budget.name): budget for budgets in self._budgets.values() for budget in budgets}
        expected = {
            (tenant, name, month, percent)
            for (tenant, name, month), spent_pico in self._spent.items()
            for percent in named[tenant, name].reached(spent_pico)
        }
        found = set(self._alerts.values())
        different = [f"alert {alert} is missing" for alert in expected - found]
        different += [f"alert {alert} is one too many" for alert in found - expected]
        if len(found) != len(self._alerts):
            different.append("one level has alerts of two ids")
        return different

    async def _read_alerts(self) -> None:
        start, end = await self._next(ALERTS)
        async for _, records in self._broker.read(ALERTS, start, end):
            for record in records:
                alert = decode_alert(record.value)
                data = alert.data
                self._alerts[alert.id] = (data.tenant, data.budget, data.period_start, data.percent)

    async def _next(self, topic: str) -> tuple[Offsets, Offsets]:
        start, end = self._read[topic], await self._broker.ends(topic, partitions_of(topic))
        self._read[topic] = end
        return start, end
