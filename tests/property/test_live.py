"""The fold behind live windows, budgets and alerts, against an oracle and against itself after restarts.

By design the order of records matters in four places, and only there: lateness against the watermark, which of two
events with one id is first, which models are kept apart beyond the bound, and the event that an alert names. Of the
log, nothing else is drawn upon: who folds it, from when on, and in which mixture of stored ages makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterstream.processors.aggregation import cut as cutting
from meterstream.processors.aggregation import duplicates, windows
from meterstream.processors.aggregation.budgets import Rules, counted_from
from meterstream.processors.aggregation.checkpoint import choose, restore, stale_keys
from meterstream.processors.aggregation.cut import Cut, EncodedAlert, Keyed, cut, cut_alerts
from meterstream.processors.aggregation.fold import Bucket, Partition
from meterstream.schema.aggregate import BudgetState, Progress, Window, decode_aggregate
from meterstream.schema.alert import Alert, decode_alert
from meterstream.schema.money import format_amount
from tests.oracle.live import DAY, HOUR, Live, LogRecord, Plan
from tests.property.live_log import (
    KNOWN,
    NUMBER,
    SILENT,
    Log,
    LogMaker,
    Mix,
    budget_of,
    make_plans,
)

ROWS_KEPT, RECORDS_KEPT, CHUNK_ROWS, CHUNK_RECORDS, MODELS_MAX, BUCKETS = 32, 20, 8, 5, 4, 4

seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module", autouse=True)
def small_bounds() -> Iterator[None]:
    """Bounds that a log of sixty records reaches."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ROWS_KEPT", "RECORDS_KEPT", "CHUNK_ROWS", "CHUNK_RECORDS"):
            patch.setattr(duplicates, name, globals()[name])
        patch.setattr(windows, "MODELS_MAX", MODELS_MAX)
        patch.setattr(cutting, "BUCKETS_A_FLUSH", 2)
        patch.setattr(cutting, "BEHIND_RECORDS", 2)
        patch.setattr(cutting, "BUCKETS", BUCKETS)
        yield


def oracle_of(log: Log) -> Live:
    return Live(log.records, (ROWS_KEPT, RECORDS_KEPT), (CHUNK_ROWS, CHUNK_RECORDS), MODELS_MAX, SILENT)


def rules_of(plans: list[Plan]) -> Rules:
    return Rules(budget_of(plan) for plan in plans)


def new_partition(buckets: int = BUCKETS) -> Partition:
    return Partition(NUMBER, known_sources=KNOWN, silent_sources={SILENT}, buckets=[Bucket() for _ in range(buckets)])


def state_of(partition: Partition) -> dict[str, Any]:
    """Everything that later answers depend on, whatever the number of buckets."""
    tenants: dict[str, Any] = {}
    for bucket in partition.buckets:
        for name, tenant in bucket.tenants.items():
            assert name not in tenants
            leaves = {key: (leaf.hours, leaf.days) for key, leaf in tenant.windows.leaves.items()}
            minutes = {
                currency: {minute: ring for minute, ring in rings.items() if minute >= partition.floors.minute}
                for currency, rings in tenant.windows.minutes.items()
            }
            counters = {
                name: (
                    counter.version,
                    counter.complete_from_ms,
                    counter.current,
                    counter.previous,
                    {start: (spent.period, spent.spent_pico, spent.reached) for start, spent in counter.spent.items()},
                )
                for name, counter in tenant.counters.items()
            }
            tenants[name] = leaves, {currency: rings for currency, rings in minutes.items() if rings}, counters
    return {
        "tenants": {name: parts for name, parts in tenants.items() if any(parts)},
        "prefixes": dict(partition.prefixes),
        "watermark": partition.watermark_ms,
        "horizon": partition.claims.horizon,
        "claims": len(partition.claims),
        "next": partition.next_offset,
    }


def copied(state: Any) -> Any:
    """`state_of` shares its lists with the partition."""
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if type(state) in (tuple, list):
        return type(state)(map(copied, state))
    return state


def windows_of(partition: Partition) -> dict[tuple[str, str, int], dict[tuple[str, str, str], tuple[int, ...]]]:
    found: dict[tuple[str, str, int], dict[tuple[str, str, str], tuple[int, ...]]] = {}
    for bucket in partition.buckets:
        for name, tenant in bucket.tenants.items():
            for key, leaf in tenant.windows.leaves.items():
                for kind, numbers in (("hour", leaf.hours), ("day", leaf.days)):
                    for number, counts in numbers.items():
                        found.setdefault((name, kind, number), {})[key] = tuple(counts)
    return found


class Broker:
    """What was sent. Any record that was ever sent for a bucket may be the one that is stored."""

    def __init__(self) -> None:
        self.state: dict[bytes, list[bytes | None]] = {}
        self.aggregates: list[tuple[bytes, bytes | None]] = []
        self.alerts: dict[str, list[Alert]] = {}

    def send_alerts(self, alerts: list[EncodedAlert]) -> None:
        for _, value in alerts:
            alert = decode_alert(value)
            self.alerts.setdefault(alert.id, []).append(alert)

    def send(self, each: Cut, random: Random | None = None) -> None:
        """With `random`: the sender dies somewhere, in the order of sending."""
        sent = sum(len(part) for part in (each.alerts, each.beginnings, each.begun, each.aggregates, each.state))
        left = sent if random is None else random.randint(0, sent)

        def prefix(records: list[Any]) -> list[Any]:
            nonlocal left
            taken, left = records[:left], max(0, left - len(records))
            return taken

        def some(records: list[Keyed]) -> list[Keyed]:
            """Of what is on its way at once to different keys, any part may have come."""
            taken = len(prefix(records))
            return records if random is None else random.sample(records, taken)

        self.send_alerts(prefix(each.alerts))
        self.store(some(each.beginnings))
        self.send_alerts(prefix(each.begun))
        self.aggregates += prefix(each.aggregates)
        self.store(some(each.state))

    def store(self, records: list[Keyed]) -> None:
        for key, value in records:
            self.state.setdefault(key, []).append(value)

    def newest(self) -> dict[bytes, bytes]:
        """Of each bucket the record that was sent last."""
        return {key: value for key, values in self.state.items() if (value := values[-1]) is not None}

    def stored(self, random: Random) -> dict[bytes, bytes]:
        """Of each bucket any record, the newer ones more often."""
        found = {}
        for key, values in self.state.items():
            value = values[-1] if random.random() < 0.5 else random.choice(values)
            if value is not None:
                found[key] = value
        return found


def restarted(stored: dict[bytes, bytes], rules: Rules) -> Partition:
    partition = restore(NUMBER, choose(stored, NUMBER), rules, known_sources=KNOWN, silent_sources={SILENT})
    partition.stale_keys = stale_keys(stored, NUMBER, len(partition.buckets))
    partition.use(rules)
    return partition


class Published(NamedTuple):
    windows: dict[bytes, Window]
    budgets: dict[bytes, BudgetState]


def believed(aggregates: list[tuple[bytes, bytes | None]]) -> Published:
    """As a reader does: of each key the highest offset; a tombstone ends it."""
    newest: dict[bytes, Window | BudgetState] = {}
    settled: dict[bytes, Window] = {}
    for key, value in aggregates:
        if value is None:
            newest.pop(key, None)
            continue
        record = decode_aggregate(value)
        if isinstance(record, Progress):
            continue
        if isinstance(record, Window) and record.settled:
            first = settled.setdefault(key, record)
            assert (first.totals, first.models) == (record.totals, record.models), "a settled window has changed"
        known = newest.get(key)
        if known is None or record.offset >= known.offset:
            newest[key] = record
    return Published(
        {key: record for key, record in newest.items() if isinstance(record, Window)},
        {key: record for key, record in newest.items() if isinstance(record, BudgetState)},
    )


def check_published(found: Published, oracle: Live, offset: int) -> None:
    """The windows of the topic are those of the oracle at the offset."""
    wanted = oracle.windows(offset)
    lengths = {"hour": HOUR, "day": DAY}
    got: dict[tuple[str, str, int], dict[tuple[str, str, str], tuple[Any, ...]]] = {}
    for record in found.windows.values():
        number = int(record.start.timestamp()) * 1000 // lengths[record.window]
        assert record.settled == (number < oracle.watermarks[offset] // lengths[record.window] - 1)
        got[record.tenant, record.window, number] = {
            (sums.provider, sums.model, sums.currency): (
                sums.events, sums.errors, sums.unpriced_events, sums.input_tokens, sums.output_tokens, sums.amount,
                sums.adjustment_amount,
            )
            for sums in record.models
        }  # fmt: skip
        for total in record.totals:
            parts = [sums for sums in record.models if sums.currency == total.currency]
            assert total.events == sum(sums.events for sums in parts)
            assert total.output_tokens == sum(sums.output_tokens for sums in parts)
    assert got == {
        place: {
            key: (
                *counts[:5],
                None if key[2] == "XXX" else format_amount(counts[5]),
                format_amount(counts[6]) if counts[6] else None,
            )
            for key, counts in models.items()
        }
        for place, models in wanted.items()
    }


# ------------------------------------------------------------------------------------------ the straight fold


@settings(max_examples=60)
@given(seeds)
def test_the_fold_agrees_with_the_oracle(seed: int) -> None:
    random = Random(seed)
    log = Log(LogMaker(random, Mix()).make())
    plans = make_plans(random, 5)
    oracle = oracle_of(log)
    partition = new_partition()
    partition.use(rules_of(plans))
    broker = Broker()
    while partition.next_offset < len(log):
        log.feed(partition)
        if random.random() < 0.3:
            offset = partition.next_offset
            publishes_all = random.random() < 0.5
            broker.send(cut(partition, publishes_all=publishes_all))
            assert windows_of(partition) == oracle.windows(offset)
            if publishes_all:
                found = believed(broker.aggregates)
                check_published(found, oracle, offset)
                for plan in plans:
                    state = found.budgets[f"budget/{plan.tenant}/{plan.name}".encode()]
                    period = plan.period_of(oracle.watermarks[offset])
                    spent = oracle.spent(plan, period[0], offset)
                    assert not state.provisional
                    assert int(state.period_start.timestamp()) * 1000 == period[0]
                    assert int(state.period_end.timestamp()) * 1000 == period[1]
                    assert (state.spent, state.remaining) == (format_amount(spent), format_amount(plan.amount - spent))
    broker.send(cut(partition, publishes_all=True))
    check_alerts(broker, oracle, plans)


def check_alerts(broker: Broker, oracle: Live, plans: list[Plan]) -> None:
    """Exactly those of the oracle, each at its event."""
    wanted = {id_: (plan, *at) for plan in plans for id_, at in oracle.alerts(plan).items()}
    assert set(broker.alerts) == set(wanted)
    for id_, sent in broker.alerts.items():
        plan, spent, entry = wanted[id_]
        row = entry.row
        for alert in sent:
            assert alert.data.place is not None
            assert (alert.data.place.position, alert.data.place.event_id) == (row.position, row.event_id)
            assert (alert.data.budget, alert.data.spent) == (plan.name, format_amount(spent))
            assert alert == sent[0], "the same alert, sent again, says the same"


@settings(max_examples=40)
@given(seeds)
def test_neither_batches_nor_interleaving_matter_where_nothing_is_late(seed: int) -> None:
    """Per source the order is kept; no event is silent, late, or has the id of another source's."""
    random = Random(seed)
    plans = make_plans(random, 5)
    mix = Mix(records=30, jumps=False, late=False, future=False, sources=[(1, 0), (1, 1), (1, 2)], huge=False)
    records = [record for record in LogMaker(random, mix).make() if record.is_pack]
    outcomes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "MODELS_MAX", 1000)
        patch.setattr(duplicates, "ROWS_KEPT", 1000)
        patch.setattr(duplicates, "RECORDS_KEPT", 1000)
        for _ in range(3):
            log = Log(recut(random, records))
            partition = new_partition()
            partition.use(rules_of(plans))
            while partition.next_offset < len(log):
                log.feed(partition)
            alerts = {decode_alert(value).id for _, value in cut(partition, publishes_all=True).alerts}
            outcomes.append((windows_of(partition), alerts))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def recut(random: Random, records: list[LogRecord]) -> list[LogRecord]:
    """The same events in other packs: of each source in its order, the sources interleaved anew."""
    queues: dict[tuple[int, int], list[Any]] = {}
    ends: dict[tuple[int, int], int] = {}
    for record in records:
        source, _, hi, _ = record.parts[0]
        known = ends.get(source, -1)
        queues.setdefault(source, []).extend(row for row in record.rows if row.position > known)
        ends[source] = max(known, hi)
    result = []
    queues = {source: rows for source, rows in queues.items() if rows}
    begins = dict.fromkeys(queues, 0)
    while queues:
        source = random.choice(sorted(queues))
        taken = queues[source][: random.randint(1, 6)]
        del queues[source][: len(taken)]
        if not queues[source]:
            del queues[source]
        lo, hi = begins[source], taken[-1].position
        begins[source] = hi + 1
        result.append(LogRecord(True, ((source, lo, hi, max(row.appended_ms for row in taken)),), tuple(taken)))
    return result


# ------------------------------------------------------------------------------------------ restarts


@settings(max_examples=120)
@given(seeds)
def test_after_restarts_everything_is_as_if_there_had_been_none(seed: int) -> None:
    random = Random(seed)
    log = Log(LogMaker(random, Mix()).make())
    plans = make_plans(random, 5)
    rules = rules_of(plans)
    oracle = oracle_of(log)

    straight = new_partition()
    straight.use(rules)
    wanted = {}
    while straight.next_offset < len(log):
        log.feed(straight)
        wanted[straight.next_offset] = copied(state_of(straight))

    broker = Broker()
    ready_max = 0
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(random.randint(2, 5)):
            patch.setattr(cutting, "BUCKETS", random.choice([1, 3, 4, 4, 7]))
            partition = restarted(broker.stored(random), rules)
            end = random.randint(ready_max, len(log))
            ready_max = max(ready_max, run(partition, log, end, broker, random, wanted))
            broker.send(cut(partition, publishes_all=random.random() < 0.5), random)
        partition = restarted(broker.stored(random), rules)
        run(partition, log, len(log), broker, random, wanted)
        for _ in range(1 + len(partition.buckets)):
            broker.send(cut(partition, publishes_all=True))
    check_published(believed(broker.aggregates), oracle, len(log))
    check_alerts(broker, oracle, plans)


def run(
    partition: Partition, log: Log, end: int, broker: Broker, random: Random, wanted: dict[int, dict[str, Any]]
) -> int:
    """Folds up to `end`, cutting now and then; compares as soon as all buckets hold the same."""
    while partition.next_offset < end:
        log.feed(partition)
        if partition.is_ready:
            assert state_of(partition) == wanted[partition.next_offset]
        if random.random() < 0.25:
            each = cut(partition, publishes_all=random.random() < 0.3)
            assert partition.is_ready or each.is_empty
            broker.send(each)
    return partition.next_offset


# ------------------------------------------------------------------------------------------ changing budgets


@settings(max_examples=120)
@given(seeds)
def test_a_budget_never_claims_more_than_it_has_counted(seed: int) -> None:
    """Budgets come, change and go at any moment, and so do the processes that count them."""
    random = Random(seed)
    log = Log(LogMaker(random, Mix()).make())
    oracle = oracle_of(log)
    plans: dict[str, Plan] = {}
    versions: dict[tuple[str, int], Plan] = {}
    partition = new_partition()
    broker = Broker()
    while partition.next_offset < len(log):
        log.feed(partition)
        dice = random.random()
        if dice < 0.2:
            change_plans(random, plans, versions)
            partition.use(rules_of(list(plans.values())))
        elif dice < 0.25:
            partition = restarted(broker.stored(random), rules_of(list(plans.values())))
        if random.random() < 0.4:
            broker.send(cut(partition, publishes_all=random.random() < 0.5))
            published, broker.aggregates = broker.aggregates, []
            for _, value in published:
                if value is not None and isinstance(state := decode_aggregate(value), BudgetState):
                    check_claim(state, versions[state.name, state.version], oracle)
    for sent in broker.alerts.values():
        for alert in sent:
            plan = versions[alert.data.budget, alert.data.version]
            start = int(alert.data.period_start.timestamp()) * 1000
            assert alert.id == plan.alert_id(start, alert.data.percent)
            assert alert.data.percent in plan.percents


def check_claim(state: BudgetState, plan: Plan, oracle: Live) -> None:
    start = int(state.period_start.timestamp()) * 1000
    spent = oracle.spent(plan, start, state.offset)
    if not state.provisional:
        assert state.spent == format_amount(spent)
    if state.previous is not None and not state.previous.provisional:
        start = int(state.previous.start.timestamp()) * 1000
        assert state.previous.spent == format_amount(oracle.spent(plan, start, state.offset))


def change_plans(random: Random, plans: dict[str, Plan], versions: dict[tuple[str, int], Plan]) -> None:
    """Makes, changes (the amount or all of it) or removes one."""
    (plan,) = make_plans(random, 1)
    name = f"b{random.randint(0, 3)}"
    known = max((version for known_name, version in versions if known_name == name), default=0)
    dice = random.random()
    if dice < 0.25:
        plans.pop(name, None)
        return
    fields = vars(plan) | {"name": name, "version": known + 1}
    if known:
        fields["tenant"] = versions[name, known].tenant
        if dice < 0.6:
            fields = vars(versions[name, known]) | {"version": known + 1, "amount": plan.amount}
    plans[name] = versions[name, known + 1] = Plan(**fields)


@settings(max_examples=40)
@given(seeds)
def test_an_alert_that_is_sent_again_says_the_same_whatever_becomes_of_its_budget(seed: int) -> None:
    """Budgets come, change and go while processes die at any point of what they send."""
    random = Random(seed)
    log = Log(LogMaker(random, Mix()).make())
    plans: dict[str, Plan] = {}
    versions: dict[tuple[str, int], Plan] = {}
    rules = rules_of([])
    partition = new_partition()
    broker = Broker()
    while partition.next_offset < len(log):
        log.feed(partition)
        if random.random() < 0.3:
            change_plans(random, plans, versions)
            rules = rules_of(list(plans.values()))
        dice = random.random()
        if dice < 0.2:
            broker.send_alerts(cut_alerts(partition))
        elif dice < 0.6:
            broker.send(cut(partition, rules, publishes_all=random.random() < 0.5))
        elif dice < 0.8:
            broker.send(cut(partition, rules, publishes_all=random.random() < 0.5), random)
            partition = restarted(broker.newest(), rules)
    broker.send(cut(partition, rules, publishes_all=True))
    for sent in broker.alerts.values():
        assert all(alert == sent[0] for alert in sent), sent
    for counter in partition.counters():
        spent = counter.spent.get(counter.current.start_ms)
        plan = plans[counter.rule.budget.name]
        for percent in plan.percents[: spent.reached if spent else 0]:
            assert plan.alert_id(counter.current.start_ms, percent) in broker.alerts, "a level that was reached is lost"


@settings(max_examples=60)
@given(seeds)
def test_a_beginning_in_mid_log_says_what_is_partial(seed: int) -> None:
    random = Random(seed)
    log = Log(LogMaker(random, Mix(future=False, duplicates=0)).make())
    oracle = oracle_of(log)
    plans = make_plans(random, 6)
    begin = random.randint(1, len(log) - 1)
    from_ms = counted_from(oracle.watermarks[begin])
    partition = Partition(
        NUMBER, known_sources=KNOWN, silent_sources={SILENT}, next_offset=begin, complete_from_ms=from_ms,
        buckets=[Bucket(begin, from_ms) for _ in range(BUCKETS)],
    )  # fmt: skip
    partition.use(rules_of(plans))
    broker = Broker()
    while partition.next_offset < len(log):
        log.feed(partition)
        if partition.is_ready and random.random() < 0.2:
            broker.send(cut(partition, publishes_all=True))
            found = believed(broker.aggregates)
            for record in found.windows.values():
                length = HOUR if record.window == "hour" else DAY
                number = int(record.start.timestamp()) * 1000 // length
                assert record.partial == (number * length < from_ms)
                if not record.partial:
                    counts = oracle.windows(record.offset)[record.tenant, record.window, number]
                    assert sum(sums.events for sums in record.models) == sum(each[0] for each in counts.values())
            for state in found.budgets.values():
                (plan,) = (plan for plan in plans if plan.name == state.name)
                check_claim(state, plan, oracle)
        if random.random() < 0.1 and len(broker.state) == BUCKETS:
            partition = restarted(broker.stored(random), rules_of(plans))


# ------------------------------------------------------------------------------------------ corrections


@settings(max_examples=30)
@given(seeds)
def test_levels_are_never_taken_back(seed: int) -> None:
    random = Random(seed)
    log = Log(LogMaker(random, Mix()).make())
    partition = new_partition()
    partition.use(rules_of(make_plans(random, 6)))
    reached: dict[tuple[str, int], int] = {}
    while partition.next_offset < len(log):
        log.feed(partition)
        for counter in partition.counters():
            for start, spent in counter.spent.items():
                key = counter.rule.budget.name, start
                assert spent.reached >= reached.get(key, 0)
                reached[key] = spent.reached
