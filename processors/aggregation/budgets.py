"""What a budget has counted, and the levels that were reached. Pure.

A counter says from when on it counts: it is the fold of the priced log from an offset on, whoever folds
it. So a budget that is made in mid-period knows which of its periods it has seen whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple

from meterstream.processors.aggregation.periods import Calendar, Period
from meterstream.schema.budget import Budget
from meterstream.schema.pack import Row
from meterstream.schema.topics import partition_of

AHEAD_MS_MAX: Final = 5 * 60_000
"""Events may be this far ahead of their append time (processors/rating/admit.py). Imports may be further ahead: what is
further ahead of the watermark is left to Postgres."""


def counted_from(watermark_ms: int) -> int:
    """The first moment of which no event has been counted yet, when nothing was appended after the watermark."""
    return watermark_ms + AHEAD_MS_MAX + 1


def counted_since(complete_from_ms: int) -> int:
    """The reverse of `counted_from`: the append time after which every event is counted."""
    return complete_from_ms - AHEAD_MS_MAX - 1


class Reached(NamedTuple):
    """A level that was reached; the row is None where events from before this version was made have reached it."""

    budget: Budget
    percent: int
    threshold_pico: int
    spent_pico: int
    period: Period
    provisional: bool
    row: Row | None
    source_id: int
    source_partition: int
    time_ms: int


class Spent:
    """One period of one budget."""

    __slots__ = ("period", "reached", "spent_pico")

    def __init__(self, period: Period, spent_pico: int = 0, reached: int = 0) -> None:
        self.period = period
        self.spent_pico = spent_pico
        self.reached = reached
        """How many of the thresholds, from the lowest on, were reached; it never falls."""


class Rule:
    """A version of a budget, made ready to count."""

    __slots__ = ("_fields", "_wanted", "budget", "calendar", "changed_ms", "currency", "levels", "spec")

    def __init__(self, budget: Budget, changed_ms: int = 0) -> None:
        self.budget = budget
        self.changed_ms = changed_ms
        """When this version was made; 0: nobody knows."""
        self.calendar = Calendar(budget)
        self.currency = budget.currency
        self.levels = [-(-budget.amount_pico * percent // 100) for percent in budget.thresholds]
        """The least amounts that reach the thresholds, pico."""
        self.spec = _spec(budget)
        """The same for two versions that count the same; only then sums carry over."""
        wanted = {field: value for field, value in budget.scope._asdict().items() if value is not None}
        self._fields = attrgetter(*wanted) if wanted else None
        self._wanted = next(iter(wanted.values())) if len(wanted) == 1 else tuple(wanted.values())

    def matches(self, row: Row) -> bool:
        """True when the row is in the scope; tenant and currency are not looked at."""
        return self._fields is None or self._fields(row) == self._wanted


def _spec(budget: Budget) -> bytes:
    parts = (
        budget.currency,
        budget.period,
        budget.time_zone,
        str(budget.week_start),
        str(budget.anchor_day),
        *("" if value is None else f"={value}" for value in budget.scope),
    )
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).digest()


class Counter:
    """What one budget has counted: the current period and the one before, in which late events still count."""

    __slots__ = (
        "complete_from_ms",
        "current",
        "is_dirty",
        "next_version",
        "previous",
        "rule",
        "spent",
        "until_ms",
        "version",
    )

    def __init__(self, rule: Rule, complete_from_ms: int, watermark_ms: int) -> None:
        self.rule = rule
        self.version = rule.budget.version
        self.complete_from_ms = complete_from_ms
        """Of every period that starts here or later all events are counted."""
        self.spent: dict[int, Spent] = {}
        """period's start -> what was spent in it; holds live periods only."""
        self.is_dirty = True
        self.until_ms = self.next_version = 0
        """Of a version that is over: when the next one, maybe a removal, was made, and which it is."""
        self.current = self.previous = Period(0, 0)
        self.roll(watermark_ms)

    def roll(self, watermark_ms: int) -> None:
        """Makes the period that holds the watermark the current one; what is older than the previous leaves."""
        self.current = self.rule.calendar.period_of(watermark_ms)
        self.previous = self.rule.calendar.before(self.current)
        for start_ms in [start_ms for start_ms in self.spent if start_ms < self.previous.start_ms]:
            del self.spent[start_ms]
        self.is_dirty = True

    def of(self, moment_ms: int) -> Spent | None:
        """The period that holds the moment; None when it is not live any more."""
        period = self.current
        start_ms, end_ms = period
        if not start_ms <= moment_ms < end_ms:
            if moment_ms < self.previous.start_ms:
                return None
            period = self.previous if moment_ms < start_ms else self.rule.calendar.period_of(moment_ms)
            start_ms = period.start_ms
        spent = self.spent.get(start_ms)
        if spent is None:
            spent = self.spent[start_ms] = Spent(period)
        return spent

    def is_provisional(self, period: Period) -> bool:
        """True when events of the period may have come before counting began."""
        # 0 is the log's beginning, and before 1970 there is nothing to miss.
        return self.complete_from_ms > 0 and period.start_ms < self.complete_from_ms

    def add(self, moment_ms: int, amount_pico: int) -> Spent | None:
        """Counts an amount of its currency; returns the period, None when the moment is not live."""
        spent = self.of(moment_ms)
        if spent is not None:
            spent.spent_pico += amount_pico
            self.is_dirty = True
        return spent

    def is_due(self, spent: Spent) -> bool:
        """True when `reach` would give a level."""
        levels = self.rule.levels
        return spent.reached < len(levels) and spent.spent_pico >= levels[spent.reached]

    def reach(
        self, spent: Spent, time_ms: int, row: Row | None = None, source_id: int = 0, source_partition: int = 0
    ) -> Iterator[Reached]:
        """The levels that are reached now and were not before, the lowest first.

        `time_ms`: the row's append time. Without a row, or with one from before this version was made, they were
        reached already when it was made; nobody wants to hear that of a period that was over by then.
        """
        rule = self.rule
        if time_ms < rule.changed_ms:
            time_ms, row = rule.changed_ms, None
        is_told = row is not None or spent.period.end_ms > (rule.changed_ms or time_ms)
        while self.is_due(spent):
            level = spent.reached
            spent.reached = level + 1
            if is_told:
                yield Reached(
                    rule.budget,
                    rule.budget.thresholds[level],
                    rule.levels[level],
                    spent.spent_pico,
                    spent.period,
                    self.is_provisional(spent.period),
                    row,
                    source_id,
                    source_partition,
                    time_ms,
                )

    def followed_by(self, rule: Rule, watermark_ms: int) -> Counter | None:
        """One of a newer version that counts the same: the same sums, levels begin anew. None: it counts otherwise."""
        if rule.spec != self.rule.spec:
            return None
        counter = Counter(rule, self.complete_from_ms, max(watermark_ms, self.current.start_ms))
        for start_ms, spent in self.spent.items():
            if start_ms >= counter.previous.start_ms:
                counter.spent[start_ms] = Spent(spent.period, spent.spent_pico)
        return counter


class Rules(Mapping[tuple[str, str], Rule]):
    """Every budget that is not removed, by (tenant, name): its newest version; and the versions that it has had."""

    def __init__(
        self, budgets: Iterable[Budget] = (), changed_ms: Mapping[tuple[str, str, int], int] = MappingProxyType({})
    ) -> None:
        """`budgets`: of one (tenant, name) any number of versions, removals too, in any order.

        `changed_ms`: when they were made, ms since 1970, by (tenant, name, version), as far as known. Where a version
        was made earlier than the one before it, says the database's clock, it counts as made together with that one.
        """
        self._versions: dict[tuple[str, str], list[Rule]] = {}
        for budget in sorted(budgets, key=attrgetter("version")):
            versions = self._versions.setdefault((budget.tenant, budget.name), [])
            made_ms = changed_ms.get((budget.tenant, budget.name, budget.version), 0)
            versions.append(Rule(budget, max(made_ms, versions[-1].changed_ms if versions else 0)))
        self._rules = {key: versions[-1] for key, versions in self._versions.items() if not versions[-1].budget.removed}
        self._by_partition: dict[int, dict[str, list[Sequence[Rule]]]] = {}
        for (tenant, _), versions in self._versions.items():
            self._by_partition.setdefault(partition_of(tenant), {}).setdefault(tenant, []).append(versions)

    def __getitem__(self, key: tuple[str, str]) -> Rule:
        return self._rules[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def versions(self, tenant: str, name: str) -> Sequence[Rule]:
        """Those that are known, the oldest first; the last may be a removal."""
        return self._versions.get((tenant, name), ())

    def of_partition(self, number: int) -> Iterable[tuple[str, list[Sequence[Rule]]]]:
        """(tenant, `versions` of each of its budgets) of every tenant that has any and whose events are there."""
        return self._by_partition.get(number, {}).items()
