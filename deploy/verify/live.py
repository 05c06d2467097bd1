"""`meterstream verify`: what the aggregator keeps live, compared with Postgres where neither has moved past the other.

Postgres is asked first, in one snapshot, up to which offset of each partition of `usage.priced` it holds everything;
then the topic is read until the aggregator says that it has published everything up to there (live_partition.py).

What may differ, and does not mean that anybody is wrong, is told apart:

- A settled window takes no events any more, Postgres does: its events that were appended before it was settled are
  compared; if it has fewer than those, they came through the rater late, and are counted as such.
- An event that its producer sends again when the aggregator has forgotten its id (processors/aggregation/duplicates.py)
  is counted twice live. That is a difference, and its text says how many Postgres holds.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from meterstream.deploy.connections import Connection
from meterstream.deploy.verify.live_partition import LivePartition
from meterstream.processors.aggregation.windows import OTHER
from meterstream.schema import topics
from meterstream.schema.aggregate import BudgetState, Sums, Window, WindowKind, window_key
from meterstream.schema.errors import RecordUnreadable, UsageError
from meterstream.schema.money import format_amount, parse_amount
from meterstream.sinks.postgres import live as stored
from meterstream.sinks.postgres.live import Numbers, Span, WindowSums
from meterstream.sinks.postgres.rollups import SUM_MAX
from meterstream.sinks.postgres.verify import DIFFERENCES_MAX, Check, Difference, midnight

WAIT_S: Final = 10.0
"""For an aggregator that is behind Postgres, once the topic is read to its end."""
POLL_MS: Final = 200
READ_WITHIN_S: Final = 60.0
KINDS: Final[tuple[WindowKind, ...]] = ("hour", "day")

_AMOUNTS: Final = ("amount", "adjustment_amount")


@dataclass(frozen=True)
class LiveReport:
    """Two checks: windows and budgets. What was not compared is counted, by reason."""

    windows: Check
    windows_left_out: dict[str, int]
    budgets: Check
    budgets_left_out: dict[str, int]
    budgets_bounded: int
    """Compared periods that may lack events: what is live lies between what came since it is complete and all of it."""
    late_events: int
    """Events that only Postgres has, because their window was settled when they came."""
    behind: tuple[int, ...]
    """Partitions in which the aggregator has not come as far as Postgres: not compared."""
    unwritten: tuple[int, ...]
    """Partitions in which no aggregator has ever written."""

    @property
    def is_good(self) -> bool:
        """Nothing disagreed."""
        return not (self.windows.different or self.budgets.different)


class _Findings:
    """What one check finds."""

    def __init__(self, name: str, unit: str) -> None:
        self._name = name
        self._unit = unit
        self.compared = 0
        self.different = 0
        self.differences: list[Difference] = []
        self.left_out: Tally[str] = Tally()

    @property
    def names_more(self) -> bool:
        return len(self.differences) < DIFFERENCES_MAX

    def differ(self, place: str, detail: str) -> None:
        self.different += 1
        if self.names_more:
            self.differences.append(Difference(place, detail))

    def check(self) -> Check:
        return Check(self._name, self.compared, self._unit, self.different, tuple(self.differences))


async def compare(
    consumer: AIOKafkaConsumer, connection: Connection, since: datetime | None = None, wait_s: float = WAIT_S
) -> LiveReport:
    """Call it inside `verify.snapshot`; `consumer` belongs to no group. Blocks until the aggregator has come up to
    Postgres, at most `wait_s` longer than reading takes. Raises UsageError, KafkaError, asyncpg.PostgresError.

    Memory grows with the number of live windows. `since` leaves out windows and periods that began before.
    """
    comparison = _Comparison(connection, midnight(since))
    partitions = {
        number: LivePartition(offset)
        for number, offset in (await stored.priced_offsets(connection)).items()
        if offset > 0
    }
    unwritten = await _read(consumer, partitions, wait_s, comparison.windows)
    reached = {number: partition for number, partition in partitions.items() if partition.progress is not None}
    await comparison.compare_windows(reached)
    await comparison.compare_budgets(reached.values())
    return LiveReport(
        windows=comparison.windows.check(),
        windows_left_out=dict(comparison.windows.left_out),
        budgets=comparison.budgets.check(),
        budgets_left_out=dict(comparison.budgets.left_out),
        budgets_bounded=comparison.budgets_bounded,
        late_events=comparison.late_events,
        behind=tuple(sorted(partitions.keys() - reached.keys() - unwritten)),
        unwritten=tuple(sorted(unwritten)),
    )


# ------------------------------------------------------------------------------------------ reading the topic


async def _read(
    consumer: AIOKafkaConsumer, partitions: Mapping[int, LivePartition], wait_s: float, findings: _Findings
) -> set[int]:
    """Reads each partition to the end it has now, and on until the aggregator is there; returns the empty ones."""
    if topics.AGGREGATES not in await consumer.topics():
        return set(partitions)
    of = {TopicPartition(topics.AGGREGATES, number): partition for number, partition in partitions.items()}
    begins = await consumer.beginning_offsets(list(of))
    ends = await consumer.end_offsets(list(of))
    written = [tp for tp in of if begins[tp] < ends[tp]]
    consumer.assign(written)
    for tp in written:
        consumer.seek(tp, begins[tp])
    read_until = time.monotonic() + READ_WITHIN_S
    wait_until: float | None = None
    while written:
        unread = [tp for tp in written if await consumer.position(tp) < ends[tp]]
        if not unread:
            wait_until = wait_until or time.monotonic() + wait_s
            if all(of[tp].progress is not None for tp in written) or time.monotonic() >= wait_until:
                break
        batches = await consumer.getmany(timeout_ms=POLL_MS)
        for tp, records in batches.items():
            for record in records:
                _add(of[tp], record, findings)
        if batches:
            read_until = time.monotonic() + READ_WITHIN_S
        elif unread and time.monotonic() >= read_until:
            raise UsageError(f"{topics.AGGREGATES}: nothing came for {READ_WITHIN_S:.0f} s, though there is more")
    return {tp.partition for tp in of.keys() - set(written)}


def _add(partition: LivePartition, record: Any, findings: _Findings) -> None:
    try:
        partition.add(record.key, record.value)
    except RecordUnreadable as error:
        findings.differ(f"{record.topic}/{record.partition} offset {record.offset}", str(error))


# --------------------------------------------------------------------------------------------- the two, compared


class _Comparison:
    def __init__(self, connection: Connection, since: datetime | None) -> None:
        self._connection = connection
        self._since = since
        self.windows = _Findings("live windows = rollups", "windows")
        self.budgets = _Findings("live budgets = ledger", "periods")
        self.budgets_bounded = 0
        self.late_events = 0

    # ------------------------------------------------------------------ windows

    async def compare_windows(self, partitions: Mapping[int, LivePartition]) -> None:
        taking: list[Window] = []
        settled: list[Window] = []
        for partition in partitions.values():
            takes, is_settled = partition.sorted_out(self._since, self.windows.left_out)
            taking += takes
            settled += is_settled
        for kind in KINDS:
            await self._compare_taking([window for window in taking if window.window == kind], kind)
            await self._compare_settled([window for window in settled if window.window == kind], kind)
            await self._find_missing(partitions, kind)

    async def _compare_taking(self, windows: list[Window], kind: WindowKind) -> None:
        sums = await stored.window_sums(self._connection, kind, [(window.tenant, window.start) for window in windows])
        for window, held in zip(windows, sums, strict=True):
            self.windows.compared += 1
            problem = _differs(window, held)
            if problem is not None:
                await self._differ(window, problem)

    async def _compare_settled(self, windows: list[Window], kind: WindowKind) -> None:
        sums = await stored.window_sums(self._connection, kind, [(window.tenant, window.start) for window in windows])
        pairs = zip(windows, sums, strict=True)
        differing = [(window, held) for window, held in pairs if _differs(window, held) is not None]
        self.windows.compared += len(windows) - len(differing)
        # A window is settled as soon as the watermark is one window past its end.
        spans = [Span(w.tenant, w.start, w.end, w.end + (w.end - w.start)) for w, _ in differing]
        in_time = await stored.span_sums(self._connection, spans)
        for (window, held), expected in zip(differing, in_time, strict=True):
            problem = _differs_settled(window, expected)
            if problem is not None:
                self.windows.compared += 1
                await self._differ(window, problem)
                continue
            live = sum(total.events for total in window.totals)
            self.late_events += _events(held) - live
            if live == _events(expected):
                self.windows.compared += 1
            else:
                self.windows.left_out["late"] += 1

    async def _find_missing(self, partitions: Mapping[int, LivePartition], kind: WindowKind) -> None:
        """Windows that Postgres has and the topic has not, where it is known that it should."""
        begins = {number: partition.complete_since(kind) for number, partition in partitions.items()}
        since = min((begin for begin in begins.values() if begin is not None), default=None)
        if since is None:
            return
        for tenant, start in await stored.window_keys(self._connection, kind, max(since, self._since or since)):
            partition = partitions.get(topics.partition_of(tenant))
            begin = None if partition is None else begins[topics.partition_of(tenant)]
            if partition is None or begin is None or start < begin or not partition.takes_events(kind, start):
                continue
            key = window_key(tenant, kind, start)
            if key not in partition.windows and key not in partition.later:
                self.windows.differ(_place(tenant, kind, start), "Postgres has it, the topic has not")

    async def _differ(self, window: Window, problem: str) -> None:
        if self.windows.names_more:
            problem += await self._again(window.tenant, window.start, window.end)
        self.windows.differ(_place(window.tenant, window.window, window.start), problem)

    async def _again(self, tenant: str, start: datetime, end: datetime) -> str:
        resent = await stored.resent(self._connection, tenant, start, end)
        if not resent:
            return ""
        return (
            f" (of its events {resent:,} came again, which Postgres counts once; live it is counted twice when its id "
            "had been forgotten)"
        )

    # ------------------------------------------------------------------ budgets

    async def compare_budgets(self, partitions: Iterable[LivePartition]) -> None:
        versions = await stored.budget_versions(self._connection)
        for partition in partitions:
            assert partition.progress is not None
            for state in partition.budgets.values():
                if state.offset > partition.position:
                    self.budgets.left_out["moved on"] += 1
                elif (
                    versions.get((state.tenant, state.name)) != state.version
                    or state.period_end <= partition.progress.watermark
                ):
                    self.budgets.left_out["left over"] += 1
                else:
                    await self._compare_budget(state)

    async def _compare_budget(self, state: BudgetState) -> None:
        since = state.counts_since if state.provisional else None
        await self._compare_period(state, state.period_start, state.period_end, state.spent, since)
        previous = state.previous
        if previous is None:
            return
        if previous.provisional:  # what of it came after counting began need not be counted
            self.budgets.left_out["provisional"] += 1
        else:
            await self._compare_period(state, previous.start, previous.end, previous.spent, None)

    async def _compare_period(
        self, state: BudgetState, start: datetime, end: datetime, live: str, counts_since: datetime | None
    ) -> None:
        """`counts_since`: where the period began before; then what was appended later is counted, the rest may be."""
        if self._since is not None and start < self._since:
            return
        self.budgets.compared += 1
        self.budgets_bounded += counts_since is not None
        least, most = await stored.spent(self._connection, state, start, end, counts_since)
        if not least <= parse_amount(live) <= most:
            held = format_amount(least) + (f" to {format_amount(most)}" if least != most else "")
            detail = f"spent: live {live}, ledger {held} {state.currency}"
            if self.budgets.names_more:
                detail += await self._again(state.tenant, start, end)
            self.budgets.differ(f"budget {state.name} of {state.tenant} from {start.isoformat()}", detail)


def _place(tenant: str, kind: WindowKind, start: datetime) -> str:
    return f"{kind} {start:%Y-%m-%dT%H}Z of {tenant}"


def _numbers(sums: Sums) -> Numbers:
    return Numbers(
        sums.events,
        sums.errors,
        sums.unpriced_events,
        sums.input_tokens,
        sums.output_tokens,
        parse_amount(sums.amount or "0"),
        parse_amount(sums.adjustment_amount or "0"),
    )


def _pairs(window: Window, held: WindowSums) -> list[tuple[str, Numbers, Numbers]]:
    """(what, live, held): the totals of each currency, and each model where the window keeps all of them apart."""
    live = {(total.currency, "", ""): _numbers(total) for total in window.totals}
    totals: dict[tuple[str, str, str], Numbers] = {}
    for (currency, _, _), numbers in held.items():
        known = totals.get((currency, "", ""), Numbers())
        totals[currency, "", ""] = Numbers(*(a + b for a, b in zip(known, numbers, strict=True)))
    if all(model.provider != OTHER for model in window.models):
        live |= {(model.currency, model.provider, model.model): _numbers(model) for model in window.models}
        totals |= held
    return [
        (" ".join(part for part in key if part), counted, _unbounded(totals.get(key, Numbers()), counted))
        for key in sorted(live.keys() | totals.keys())
        for counted in [live.get(key, Numbers())]
    ]


def _unbounded(held: Numbers, live: Numbers) -> Numbers:
    """A sum that has come to its bound in the rollups says 'at least so many'; live ones have no bound."""
    return held._replace(
        **{
            name: getattr(live, name)
            for name in ("input_tokens", "output_tokens")
            if SUM_MAX <= getattr(held, name) <= getattr(live, name)
        }
    )


def _differs(window: Window, held: WindowSums) -> str | None:
    problems = [_text(what, live, other) for what, live, other in _pairs(window, held) if live != other]
    return problems[0] if problems else None


def _differs_settled(window: Window, held: WindowSums) -> str | None:
    """What cannot be, even if some of the events came late: more than there are, or as many that are not the same."""
    for what, live, other in _pairs(window, held):
        live, other = live._replace(adjustment_amount=0), other._replace(adjustment_amount=0)
        is_more = any(a > b for a, b in zip(live, other, strict=True))
        if is_more or (live.events == other.events and live != other):
            return _text(what, live, other)
    return None


def _events(sums: WindowSums) -> int:
    return sum(numbers.events for numbers in sums.values())


def _text(what: str, live: Numbers, held: Numbers) -> str:
    parts = []
    for name, a, b in zip(Numbers._fields, live, held, strict=True):
        if a != b:
            shown = [format_amount(n) if name in _AMOUNTS else str(n) for n in (a, b)]
            parts.append(f"{name}: live {shown[0]}, Postgres {shown[1]}")
    return f"{what}: {'; '.join(parts)}"
