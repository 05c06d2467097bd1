"""`usage.aggregates` as a table: what each tenant uses today, how fast, and where its budgets stand. Pure.

Feed it every record from the topic's beginning, then those that follow. Of two records with one key the one
with the higher offset of `usage.priced` counts: an aggregator that was paused may send an older one late.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from meterstream.schema.aggregate import (
    BudgetState,
    Progress,
    Sums,
    Window,
    budget_key,
    decode_aggregate,
)
from meterstream.schema.money import NO_CURRENCY, parse_amount

RATE_SPAN: Final = timedelta(seconds=10)
_DAY: Final = timedelta(days=1)
_LONG_AGO: Final = datetime(1970, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TenantNow:
    """A tenant's day so far (UTC). `events_per_s`: over the last RATE_SPAN."""

    tenant: str
    events: int
    errors: int
    unpriced_events: int
    spend_pico: dict[str, int]
    """currency -> amount and corrections, 1e-12; currencies are never added up."""
    events_per_s: float
    is_partial: bool
    """True: it may lack events; Postgres has all of it."""
    budgets: tuple[BudgetState, ...]
    """By name."""


class _Day:
    """What is kept of a day's window."""

    __slots__ = ("is_partial", "offset", "start", "tenant", "totals")

    def __init__(self, window: Window) -> None:
        self.tenant = window.tenant
        self.start = window.start
        self.offset = window.offset
        self.is_partial = window.partial
        self.totals: tuple[Sums, ...] = window.totals

    @property
    def events(self) -> int:
        return sum(total.events for total in self.totals)


class Live:
    """Bounded by what is live: two days of each tenant, each budget once, RATE_SPAN of changes."""

    def __init__(self) -> None:
        self.progress: dict[int, Progress] = {}
        """partition -> everything that changed before its offset has been read."""
        self.newest_at: datetime | None = None
        """When the newest record was written (aware); None: there was none."""
        self.uncounted = 0
        """Records of `usage.priced` that should have been counted and have not; whoever follows both topics sets it."""
        self._days: dict[bytes, _Day] = {}
        self._newest_day = _LONG_AGO
        self._budgets: dict[bytes, BudgetState] = {}
        self._budget_offsets: dict[bytes, int] = {}
        """Of removed budgets too: an old state may come after the tombstone."""
        self._steps: dict[str, deque[tuple[datetime, int]]] = {}
        """tenant -> (when, how many events more than in the snapshot before)."""
        self._removed: Mapping[bytes, int] = {}

    def leave_out(self, removed: Mapping[bytes, int]) -> None:
        """`removed`: key of a budget -> the version that removed it; no state of that or of an earlier one is shown.

        Otherwise a state that was sent late would come back where compaction has taken the tombstone before it.
        """
        self._removed = removed
        self._budgets = {key: state for key, state in self._budgets.items() if not self._is_removed(key, state)}

    def _is_removed(self, key: bytes, state: BudgetState) -> bool:
        return state.version <= self._removed.get(key, 0)

    def apply(self, key: bytes, value: bytes | None, written_at: datetime) -> None:
        """Takes the next record; `written_at` (aware) is its timestamp. Raises RecordUnreadable: nothing changed."""
        record = None if value is None else decode_aggregate(value)
        self.newest_at = written_at if self.newest_at is None else max(written_at, self.newest_at)
        match record:
            case None:
                self._budgets.pop(key, None)
                self._days.pop(key, None)
            case Progress():
                known = self.progress.get(record.partition)
                if known is None or record.offset >= known.offset:
                    self.progress[record.partition] = record
            case BudgetState():
                if record.offset >= self._budget_offsets.get(key, 0) and not self._is_removed(key, record):
                    self._budget_offsets[key] = record.offset
                    self._budgets[key] = record
            case Window(window="day"):
                self._see_day(key, record, written_at)

    def missing(self, ends: Mapping[int, int]) -> int:
        """How many records before these ends of the partitions of `usage.priced` are not in here."""
        return sum(
            max(0, end - (progress.offset if (progress := self.progress.get(partition)) else 0))
            for partition, end in ends.items()
        )

    def budget(self, tenant: str, name: str) -> BudgetState | None:
        """Its newest state."""
        return self._budgets.get(budget_key(tenant, name))

    def tenants(self, now: datetime) -> list[TenantNow]:
        """Everybody who has used something today (UTC) or has a budget; most events first, then by name."""
        today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        budgets: dict[str, list[BudgetState]] = {}
        for _, state in sorted(self._budgets.items()):
            budgets.setdefault(state.tenant, []).append(state)
        days = {day.tenant: day for day in self._days.values() if day.start == today}
        found = [
            self._tenant(name, days.get(name), now, budgets.get(name, ())) for name in days.keys() | budgets.keys()
        ]
        return sorted(found, key=lambda tenant: (-tenant.events, tenant.tenant))

    def _tenant(self, name: str, day: _Day | None, now: datetime, budgets: Iterable[BudgetState]) -> TenantNow:
        totals = day.totals if day else ()
        spend: Tally[str] = Tally()
        for total in totals:
            if total.currency != NO_CURRENCY:
                spend[total.currency] += sum(
                    parse_amount(part) for part in (total.amount, total.adjustment_amount) if part is not None
                )
        recent = sum(events for at, events in self._steps.get(name, ()) if at > now - RATE_SPAN)
        return TenantNow(
            tenant=name,
            events=sum(total.events for total in totals),
            errors=sum(total.errors for total in totals),
            unpriced_events=sum(total.unpriced_events for total in totals),
            spend_pico=dict(sorted(spend.items())),
            events_per_s=recent / RATE_SPAN.total_seconds(),
            is_partial=day is not None and day.is_partial,
            budgets=tuple(budgets),
        )

    def _see_day(self, key: bytes, window: Window, written_at: datetime) -> None:
        if window.start < self._newest_day - _DAY:
            return
        if window.start > self._newest_day:
            self._forget_before(window.start - _DAY)
            self._newest_day = window.start
        known = self._days.get(key)
        if known is not None and window.offset < known.offset:
            return
        self._days[key] = day = _Day(window)
        if known is not None:  # the first snapshot says nothing about when its events came
            self._step(window.tenant, written_at, day.events - known.events)

    def _forget_before(self, start: datetime) -> None:
        self._days = {key: day for key, day in self._days.items() if day.start >= start}
        tenants = {day.tenant for day in self._days.values()}
        self._steps = {tenant: steps for tenant, steps in self._steps.items() if tenant in tenants}

    def _step(self, tenant: str, at: datetime, events: int) -> None:
        steps = self._steps.setdefault(tenant, deque())
        steps.append((at, events))
        while steps[0][0] <= at - RATE_SPAN:
            steps.popleft()
