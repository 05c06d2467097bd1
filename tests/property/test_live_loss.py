"""A state goes on after a loss of the log: what may lack events says so, the rest is exact, no level is raised twice.

The state is loaded by the aggregator's own loader; the readers of both topics, and what stores, stand in for a broker.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from random import Random
from typing import Any, NamedTuple

import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from meterstream.processors.aggregation import checkpoint, duplicates, loss
from meterstream.processors.aggregation import cut as cutting
from meterstream.processors.aggregation.budgets import Rules
from meterstream.processors.aggregation.cut import cut
from meterstream.processors.aggregation.fold import Bucket, Partition
from meterstream.processors.aggregation.loading import Loader, LostState
from meterstream.schema.aggregate import BudgetState, Window, decode_aggregate
from meterstream.schema.alert import Alert, decode_alert
from meterstream.schema.errors import OffsetOutOfRange
from meterstream.schema.money import parse_amount
from tests.oracle.live import AHEAD, DAY, HOUR, Live, LogRow, Plan
from tests.property.live_log import (
    KNOWN,
    NUMBER,
    SILENT,
    Log,
    LogMaker,
    Mix,
    budget_of,
    make_plans,
    whole_state,
)

KEPT, CHUNK, BUCKETS = (32, 20), (8, 5), 4
LENGTHS = {"hour": HOUR, "day": DAY}

seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module", autouse=True)
def small_bounds() -> Iterator[None]:
    """Bounds that a log of sixty records reaches."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("ROWS_KEPT", "RECORDS_KEPT"), KEPT, strict=True):
            patch.setattr(duplicates, name, value)
        for name, value in zip(("CHUNK_ROWS", "CHUNK_RECORDS"), CHUNK, strict=True):
            patch.setattr(duplicates, name, value)
        patch.setattr(cutting, "BEHIND_RECORDS", 2)
        patch.setattr(cutting, "BUCKETS", BUCKETS)
        patch.setattr(loss, "BUCKETS", BUCKETS)
        yield


class Killed(Exception):
    pass


class Broker:
    """The log from `begin` on, and the newest record of each key of the state topic."""

    def __init__(self, end: int) -> None:
        self.begin = 0
        self.end = end
        self.sent_ms = 0
        """When the first record after a loss was sent."""
        self.state: dict[bytes, bytes] = {}
        self.stores_left = -1
        """So many, then it is killed; negative: never."""

    async def begins(self, numbers: Collection[int]) -> dict[int, int]:
        return dict.fromkeys(numbers, self.begin)

    async def ends(self, numbers: Collection[int]) -> dict[int, int]:
        return dict.fromkeys(numbers, self.end + 1)  # what comes is nearer than this process's clock

    async def first_time_ms(self, number: int, offset: int) -> int:
        assert number == NUMBER and offset >= self.begin
        return self.sent_ms

    async def store(self, number: int, key: bytes, value: bytes | None) -> None:
        assert number == NUMBER and value is not None
        if self.stores_left == 0:
            raise Killed
        self.stores_left -= 1
        self.state[key] = value


class StateTopic:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def begins(self, numbers: Collection[int]) -> dict[int, int]:
        return dict.fromkeys(numbers, 0)

    async def ends(self, numbers: Collection[int]) -> dict[int, int]:
        return dict.fromkeys(numbers, len(self._broker.state))

    async def read(self, ranges: Mapping[int, tuple[int, int]]) -> AsyncIterator[list[ConsumerRecord[Any, Any]]]:
        yield [ConsumerRecord("state", NUMBER, 0, 0, 0, *record, 0, 0, 0, ()) for record in self._broker.state.items()]


def loaded(broker: Broker, rules: Rules, accepted: Collection[LostState] = ()) -> Partition:
    """As the aggregator loads it, up to where all buckets hold the same. Raises Killed, OffsetOutOfRange."""

    async def rules_now() -> Rules:
        return rules

    loader = Loader(broker, StateTopic(broker), broker.store, rules_now, accepted=accepted)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "_known_sources", KNOWN)
        patch.setattr(loader, "_silent_sources", {SILENT})
        return asyncio.run(loader.restore([NUMBER]))[NUMBER]


class Life(NamedTuple):
    """What one process published."""

    aggregates: list[tuple[bytes, bytes | None]]
    alerts: list[Alert]


def send(each: cutting.Cut, life: Life, broker: Broker) -> None:
    life.alerts.extend(decode_alert(value) for _, value in [*each.alerts, *each.begun])
    life.aggregates.extend(each.aggregates)
    for key, value in [*each.beginnings, *each.state]:
        if value is not None:
            broker.state[key] = value


class Case(NamedTuple):
    random: Random
    log: Log
    plans: list[Plan]
    rules: Rules
    broker: Broker
    first: Life
    is_clean: bool
    """The first process stored everything at its end."""


def first_life(seed: int) -> Case:
    """A process that counts a part of the log; then the log loses what follows the state, and perhaps more."""
    random = Random(seed)
    log = Log(LogMaker(random, Mix(future=False, corrections=0)).make())
    plans = make_plans(random, 5)
    rules = Rules(budget_of(plan) for plan in plans)
    broker, life = Broker(len(log)), Life([], [])
    buckets = [Bucket() for _ in range(BUCKETS)]
    partition = Partition(NUMBER, known_sources=KNOWN, silent_sources={SILENT}, buckets=buckets)
    partition.use(rules)
    broker.state = whole_state(partition)
    states = [dict(broker.state)]
    head = random.randint(0, len(log) - 1)
    while partition.next_offset < head:
        log.feed(partition)
        if random.random() < 0.3:
            send(cut(partition, publishes_all=random.random() < 0.5), life, broker)
            states.append(dict(broker.state))
    is_clean = random.random() < 0.5
    if is_clean:
        send(cut(partition, publishes_all=True, writes_all=True), life, broker)
    else:  # any mixture of ages: a process that was paused stores late
        broker.state = {key: random.choice(states[-6:])[key] for key in broker.state}
    newest = max(record.folded for record in stored(broker))
    low = low_of(broker)
    broker.begin = random.randint(low + 1, max(newest, low + 1) if random.random() < 0.5 else len(log))
    return Case(random, log, plans, rules, broker, life, is_clean)


def stored(broker: Broker) -> list[checkpoint.BucketRecord]:
    return [record for record in checkpoint.choose(broker.state, NUMBER) if record is not None]


def low_of(broker: Broker) -> int:
    return min(record.folded for record in stored(broker))


class Told(NamedTuple):
    """What the model knows of a loss."""

    resumes: int
    lost_from: int
    complete_from: int

    def is_marked(self, kind: str, number: int) -> bool:
        length = LENGTHS[kind]
        return number >= self.lost_from // length - 1 and number * length < self.complete_from


def told(case: Case) -> tuple[Told, Live]:
    """The model's log: ids of before its beginning are not known where the state goes on."""
    before, begin = stored(case.broker), case.broker.begin
    resumes = max(begin, *(record.folded for record in before))
    newest = max(before, key=lambda record: record.folded)
    oracle = Live(case.log.records, KEPT, CHUNK, 10**6, SILENT)
    case.broker.sent_ms = oracle.watermarks[resumes] + case.random.randint(0, 3000)
    if newest.horizon.offset < begin:
        later = Live(case.log.records, KEPT, CHUNK, 10**6, SILENT, forgets=begin)
        for tenant in oracle.entries.keys() | later.entries.keys():
            own = [entry for entry in oracle.entries[tenant] if entry.offset < resumes]
            oracle.entries[tenant] = own + [entry for entry in later.entries[tenant] if entry.offset >= resumes]
    lost_from = min(record.watermark_ms for record in before)
    return Told(resumes, lost_from, case.broker.sent_ms + AHEAD + 1), oracle


class Truth:
    """Every event once by its position, whatever came late, before an offset."""

    def __init__(self, log: Log) -> None:
        self._rows: dict[tuple[tuple[int, int], int], tuple[int, LogRow]] = {}
        for offset, record in enumerate(log.records):
            for row in record.rows:
                self._rows.setdefault((record.parts[0][0], row.position), (offset, row))

    def window(self, tenant: str, kind: str, number: int, offset: int) -> tuple[int, ...]:
        counts = [
            row.counts
            for at, row in self._rows.values()
            if at < offset and row.tenant == tenant and row.occurred_ms // LENGTHS[kind] == number
        ]
        return tuple(map(sum, zip(*counts, strict=True))) or (0,) * 7

    def spent(self, plan: Plan, start: int, offset: int) -> int:
        return sum(
            row.amount or 0
            for at, row in self._rows.values()
            if at < offset and plan.takes(row) and plan.period_of(row.occurred_ms)[0] == start
        )


def windows_of(partition: Partition) -> dict[tuple[str, str, int], dict[tuple[str, str, str], tuple[int, ...]]]:
    found: dict[tuple[str, str, int], dict[tuple[str, str, str], tuple[int, ...]]] = {}
    for name, kind, number in partition.windows():
        tenant = next(bucket.tenants[name] for bucket in partition.buckets if name in bucket.tenants)
        found[name, kind, number] = {
            key: tuple(counts)
            for key, leaf in tenant.windows.leaves.items()
            if (counts := (leaf.hours if kind == "hour" else leaf.days).get(number))
        }
    return found


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_what_is_not_marked_is_exact_and_nothing_is_too_much(seed: int) -> None:
    case = first_life(seed)
    random, log, broker = case.random, case.log, case.broker
    known, oracle = told(case)
    truth = Truth(log)
    with pytest.raises(OffsetOutOfRange, match=f"METERSTREAM_AGGREGATOR_BOOTSTRAP={NUMBER}:{low_of(broker)} "):
        loaded(broker, case.rules)
    had = reached_levels(stored(broker), case.plans)
    newest_ms = max(record.watermark_ms for record in stored(broker))
    partition = killed_and_loaded(case)
    assert {record.folded for record in stored(broker)} == {known.resumes}
    assert partition.ready_offset == partition.low_offset == known.resumes
    assert partition.watermark_ms == newest_ms
    second = Life([], [])
    while partition.next_offset < len(log):
        log.feed(partition)
        if partition.is_ready and random.random() < 0.4:
            check_windows(partition, known, oracle, truth)
        if random.random() < 0.3:
            send(cut(partition, publishes_all=random.random() < 0.5), second, broker)
        if partition.is_ready and random.random() < 0.1 and low_of(broker) >= broker.begin:
            partition = loaded(broker, case.rules)
            assert partition.next_offset >= broker.begin
    if partition.is_ready:
        check_windows(partition, known, oracle, truth)
        send(cut(partition, publishes_all=True), second, broker)
    check_published(case, second, known, oracle, truth)
    check_alerts(case, second, known, oracle, truth, had)


def killed_and_loaded(case: Case) -> Partition:
    """Some starts are killed while they store; the last is not."""
    broker, accepted = case.broker, [LostState(NUMBER, low_of(case.broker))]
    for _ in range(case.random.choice([0, 0, 1, 3])):
        broker.stores_left = case.random.randint(0, BUCKETS - 1)
        with pytest.raises(Killed):
            loaded(broker, case.rules, accepted)
    broker.stores_left = -1
    return loaded(broker, case.rules, accepted)


def check_windows(partition: Partition, known: Told, oracle: Live, truth: Truth) -> None:
    ours, wanted = windows_of(partition), oracle.windows(partition.next_offset)
    for (tenant, kind, number), models in ours.items():
        assert partition.may_lack(number, LENGTHS[kind]) == known.is_marked(kind, number)
        if known.is_marked(kind, number):
            total = map(sum, zip(*models.values(), strict=True))
            most = truth.window(tenant, kind, number, partition.next_offset)
            assert all(a <= b for a, b in zip(total, most, strict=True))
        elif number >= oracle.watermarks[partition.next_offset] // LENGTHS[kind] - 2:  # it may stay for an hour longer
            assert models == wanted[tenant, kind, number]
    missing = wanted.keys() - ours.keys()
    assert all(known.is_marked(kind, number) for _, kind, number in missing)


def check_published(case: Case, second: Life, known: Told, oracle: Live, truth: Truth) -> None:
    plans = {plan.name: plan for plan in case.plans}
    if any(b"progress" in key for key, _ in second.aggregates):
        for record in newest_windows((case.first.aggregates if case.is_clean else []) + second.aggregates):
            number = int(record.start.timestamp()) * 1000 // LENGTHS[record.window]
            assert record.partial == known.is_marked(record.window, number), "nobody has been told"
    for state in [decode_aggregate(value) for _, value in second.aggregates if value is not None]:
        if isinstance(state, BudgetState):
            periods = [(state.period_start, state.spent, state.provisional)]
            if state.previous is not None:
                periods.append((state.previous.start, state.previous.spent, state.previous.provisional))
            for period_start, spent, is_provisional in periods:
                plan, start = plans[state.name], int(period_start.timestamp()) * 1000
                assert is_provisional == (start < known.complete_from)
                if is_provisional:
                    assert parse_amount(spent) <= truth.spent(plan, start, state.offset)
                else:
                    assert parse_amount(spent) == oracle.spent(plan, start, state.offset)


def newest_windows(aggregates: list[tuple[bytes, bytes | None]]) -> list[Window]:
    newest: dict[bytes, Window] = {}
    for key, value in aggregates:
        record = None if value is None else decode_aggregate(value)
        if isinstance(record, Window):
            newest[key] = record
        elif record is None:
            newest.pop(key, None)
    return list(newest.values())


Level = tuple[str, int, int]
"""(budget, start of the period, percent)"""


def level_of(alert: Alert) -> Level:
    return alert.data.budget, int(alert.data.period_start.timestamp()) * 1000, alert.data.percent


def reached_levels(records: list[checkpoint.BucketRecord], plans: list[Plan]) -> set[Level]:
    found = set()
    for counter in (counter for record in records for tenant in record.tenants for counter in tenant.counters):
        plan = next(plan for plan in plans if plan.name == counter.name)
        for moment, _, reached in counter.spent:
            found |= {(plan.name, plan.period_of(moment)[0], percent) for percent in plan.percents[:reached]}
    return found


def check_alerts(case: Case, second: Life, known: Told, oracle: Live, truth: Truth, had: set[Level]) -> None:
    raised = {level_of(alert) for alert in second.alerts}
    assert not raised & had, "what was reached stays reached"
    if case.is_clean:
        ids = {alert.id for alert in case.first.alerts}
        assert not ids & {alert.id for alert in second.alerts}
    plans = {plan.name: plan for plan in case.plans}
    for alert in second.alerts:
        _, start, percent = level_of(alert)
        plan = plans[alert.data.budget]
        assert alert.data.provisional == (start < known.complete_from)
        spent = parse_amount(alert.data.spent)
        assert percent in plan.percents_at(spent)
        assert spent <= truth.spent(plan, start, len(case.log))
    for plan in case.plans:
        wanted = {
            id_: spent for id_, (spent, entry) in oracle.alerts(plan).items()
            if plan.period_of(entry.row.occurred_ms)[0] >= known.complete_from
        }  # fmt: skip
        of_plan = [alert for alert in second.alerts if alert.data.budget == plan.name and not alert.data.provisional]
        assert {alert.id: parse_amount(alert.data.spent) for alert in of_plan} == wanted


def test_the_cases_meet_what_they_are_made_for() -> None:
    """Of a hundred seeds: losses within the stored range and behind it, marked windows, levels before and after."""
    met: Tally[str] = Tally()
    for seed in range(100):
        case = first_life(seed)
        known, _ = told(case)
        before = stored(case.broker)
        met["bucket behind the loss"] += known.resumes > case.broker.begin
        met["reached before"] += bool(reached_levels(before, case.plans))
        partition = loaded(case.broker, case.rules, [LostState(NUMBER, low_of(case.broker))])
        met["marked"] += any(known.is_marked(kind, number) for _, kind, number in partition.windows())
        met["settled"] += any(not known.is_marked(kind, number) for _, kind, number in partition.windows())
        while partition.next_offset < len(case.log):
            case.log.feed(partition)
        met["raised after"] += bool(partition.reached)
        met["complete again"] += any(start >= known.complete_from for start in starts_of(partition))
    assert min(met.values()) >= 5 and len(met) == 6, met


def starts_of(partition: Partition) -> list[int]:
    return [number * LENGTHS[kind] for _, kind, number in partition.windows()]
