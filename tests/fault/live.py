"""The live side of a pipeline under faults: budgets to watch, and the judgement of what was published."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from uuid import UUID, uuid5

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from meterstream.deploy.kafka import client_options
from meterstream.schema import topics
from meterstream.schema.aggregate import Aggregate, BudgetState, Progress, Window, decode_aggregate
from meterstream.schema.alert import Alert, decode_alert
from meterstream.schema.catalog import BudgetEntry, encode_entry
from meterstream.schema.settings import Settings
from tests.background import beside
from tests.fault.pipeline import Pipeline
from tests.fault.roles import ROLES, Role
from tests.oracle import live as oracle

PICO = 10**12
PERCENTS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100, 120, 150, 200, 300, 500, 1000)
TENANTS = 40
BUCKETS_OF_ALL = 16 * 32
ZONES = ("Europe/Berlin", "Asia/Kolkata", "America/New_York", "UTC")


def budgets() -> list[oracle.Budget]:
    """Dense ladders on most tenants, some of them in a scope."""
    found = []
    for number in range(TENANTS):
        tenant = f"tenant-{number:05d}"
        period = ("day", "week", "month")[number % 3]
        for currency in ("USD", "EUR"):
            amount = (3 + number) * PICO // 10
            zone = ZONES[number % 4]
            found.append(oracle.Budget(tenant, f"all-{currency}", 1, amount, currency, period, zone, PERCENTS, {}))
        scope = {oracle.PROVIDER: "openai"} if number % 2 else {oracle.PROVIDER: "openai", oracle.MODEL: "gpt-4o-mini"}
        found.append(oracle.Budget(tenant, "scoped", 1, PICO // 50, "USD", "day", "UTC", PERCENTS, scope))
    return found


async def publish_budgets(settings: Settings) -> None:
    """To the catalog, as `budget add` would."""
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        for budget in budgets():
            entry = BudgetEntry(
                tenant=budget.tenant,
                name=budget.name,
                version=budget.version,
                amount=f"{Decimal(budget.amount) / PICO:f}",
                currency=budget.currency,
                period=budget.period,
                time_zone=budget.zone,
                week_start=1,
                anchor_day=1,
                thresholds=budget.percents,
                provider=budget.scope.get(oracle.PROVIDER),
                model=budget.scope.get(oracle.MODEL),
            )
            key, value = encode_entry(entry)
            await producer.send_and_wait(topics.CATALOG, value, key=key)


async def wait_until_live(pipeline: Pipeline) -> None:
    """Until everything on usage.priced has been folded and published."""
    wanted = {number: end for number, end in (await ends(pipeline.settings, topics.PRICED)).items() if end}

    async def is_published() -> bool:
        offsets: dict[int, int] = defaultdict(int)
        for _, aggregate in await _aggregates(pipeline.settings):
            if isinstance(aggregate, Progress):
                offsets[aggregate.partition] = max(offsets[aggregate.partition], aggregate.offset)
        return all(offsets[number] >= end for number, end in wanted.items())

    await pipeline.wait("everything is published", is_published)


async def wake_up_late(pipeline: Pipeline, program: Sequence[str] = ROLES) -> None:
    """An aggregator pauses with a cut in its hands, loses everything to another, and sends its cut after the other's.

    Both are killed then, and a third one has to make sense of what they have left.
    """
    await pipeline.start("rater")
    paused = await pipeline.start("aggregator", is_alone=False, armed=["after_cut:12:stop"], program=program)
    async with beside(pipeline.publish):
        await pipeline.wait("the first pauses", paused.is_paused)
        await pipeline.throw_out("aggregator")
        successor = await pipeline.start("aggregator", is_alone=False, program=program)
        await pipeline.wait("the second is live", partial(_has_said, successor, "live: partitions"))
        before = await _state_records(pipeline.settings)

        async def has_stored_all() -> bool:
            return await _state_records(pipeline.settings) >= before + 3 * BUCKETS_OF_ALL

        await pipeline.wait("the second has stored every bucket", has_stored_all)
        successor.signal(signal.SIGSTOP)  # so that the woken one has the last word
        before = await _state_records(pipeline.settings)
        paused.signal(signal.SIGCONT)

        async def has_stored_late() -> bool:
            return await _state_records(pipeline.settings) > before

        await pipeline.wait("the first stores what it had", has_stored_late)
        await pipeline.throw_out("aggregator")
        await asyncio.gather(paused.end(), successor.end())
        await pipeline.start("aggregator", program=program)


async def _has_said(role: Role, text: str) -> bool:
    return text in role.said()


async def _state_records(settings: Settings) -> int:
    return sum((await ends(settings, topics.AGGREGATOR_STATE)).values())


async def judge_live(pipeline: Pipeline) -> oracle.Live:
    """Compares alerts, windows and budgets on the topics with the model. Fails on any difference."""
    expected = oracle.fold(await _priced(pipeline.settings), budgets())
    differences = [
        *_compare_alerts(expected, await _alerts(pipeline.settings)),
        *_compare_aggregates(expected, await _aggregates(pipeline.settings)),
    ]
    assert not differences, f"seed {pipeline.seed}: {len(differences)} differences: {differences[:10]}"
    return expected


def _compare_alerts(expected: oracle.Live, alerts: list[Alert]) -> list[str]:
    by_id: dict[str, set[str]] = defaultdict(set)
    for alert in alerts:
        by_id[alert.id].add(alert.data.spent)
    wanted = {_alert_id(level): spent for level, spent in expected.reached.items()}
    differences = [f"alert {name} is missing" for name in wanted.keys() - by_id.keys()]
    differences += [f"alert {name} was never due" for name in by_id.keys() - wanted.keys()]
    for name in wanted.keys() & by_id.keys():
        if {Decimal(spent) for spent in by_id[name]} != {Decimal(wanted[name]) / PICO}:
            differences.append(f"alert {name}: spent {by_id[name]}, not {wanted[name]}")
    return differences


def _alert_id(level: oracle.Level) -> str:
    """As documented: UUIDv5 of the level's name."""
    start = level.period_start.strftime("%Y-%m-%dT%H:%M:%SZ")
    name = f"budget\n{level.tenant}\n{level.budget}\n{level.version}\n{start}\n{level.percent}"
    return str(uuid5(UUID("6d657465-7273-5472-8561-6d616c657274"), name))


def _compare_aggregates(expected: oracle.Live, published: list[tuple[bytes, Aggregate | None]]) -> list[str]:
    newest: dict[bytes, Window | BudgetState] = {}
    for key, aggregate in published:
        if aggregate is None:
            newest.pop(key, None)
        elif not isinstance(aggregate, Progress) and (key not in newest or aggregate.offset >= newest[key].offset):
            newest[key] = aggregate
    windows: dict[oracle.WindowKey, oracle.Sums] = {}
    differences = []
    for aggregate in newest.values():
        if isinstance(aggregate, BudgetState):
            start = aggregate.period_start
            spent = expected.spent.get((aggregate.tenant, aggregate.name, start), 0)
            if Decimal(aggregate.spent) * PICO != spent or aggregate.provisional:
                differences.append(f"{aggregate}: spent is {spent}")
            continue
        for sums in aggregate.models:
            names = sums.provider, sums.model, sums.currency
            windows[aggregate.tenant, aggregate.window, aggregate.start, *names] = oracle.Sums(
                sums.events,
                sums.errors,
                sums.unpriced_events,
                sums.input_tokens,
                sums.output_tokens,
                int(Decimal(sums.amount or 0) * PICO),
            )
    differences += [f"window {place} is missing" for place in expected.windows.keys() - windows.keys()]
    differences += [f"window {place} is too much" for place in windows.keys() - expected.windows.keys()]
    differences += [
        f"window {place}: {windows[place]} instead of {sums}"
        for place, sums in expected.windows.items()
        if place in windows and windows[place] != sums
    ]
    return differences


async def newest_windows(settings: Settings) -> list[Window]:
    """What the topic says of every window that has not left."""
    newest: dict[bytes, Window] = {}
    for key, aggregate in await _aggregates(settings):
        if isinstance(aggregate, Window):
            newest[key] = aggregate
        elif aggregate is None:
            newest.pop(key, None)
    return list(newest.values())


async def ends(settings: Settings, topic: str) -> dict[int, int]:
    """partition -> end offset."""
    partitions = [TopicPartition(topic, number) for number in range(topics.partitions_of(topic))]
    async with AIOKafkaConsumer(**client_options(settings)) as consumer:
        return {tp.partition: end for tp, end in (await consumer.end_offsets(partitions)).items()}


async def _records(settings: Settings, topic: str) -> list[tuple[int, bytes, bytes | None, bool]]:
    """(partition, key, value, has headers) of everything that is there, in order within a partition."""
    left = {TopicPartition(topic, number): end for number, end in (await ends(settings, topic)).items() if end}
    found = []
    if not left:
        return []
    async with AIOKafkaConsumer(**client_options(settings), fetch_max_wait_ms=10) as consumer:
        consumer.assign(list(left))
        await consumer.seek_to_beginning(*left)
        while left:
            for partition, records in (await consumer.getmany(*left, timeout_ms=500)).items():
                found += [
                    (partition.partition, r.key, r.value, bool(r.headers))
                    for r in records
                    if r.offset < left[partition]
                ]
            for partition in list(left):
                if await consumer.position(partition) >= left[partition]:
                    del left[partition]
    return found


async def _priced(settings: Settings) -> list[oracle.PricedRecord]:
    return [
        oracle.PricedRecord(partition, is_coverage, value or b"")
        for partition, _, value, is_coverage in await _records(settings, topics.PRICED)
    ]


async def _alerts(settings: Settings) -> list[Alert]:
    return [decode_alert(value or b"") for _, _, value, _ in await _records(settings, topics.ALERTS)]


async def _aggregates(settings: Settings) -> list[tuple[bytes, Aggregate | None]]:
    return [
        (key, None if value is None else decode_aggregate(value))
        for _, key, value, _ in await _records(settings, topics.AGGREGATES)
    ]
