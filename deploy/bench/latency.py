"""Publish -> row committed, and publish -> alert read, at a stated load.

Open loop: an event's `time` is when it is to be sent, fixed beforehand, so a stall of anything counts for every
event behind it. The commit's time is Postgres' own (`track_commit_timestamp`), for every row. An alert says which
event raised it; it is read here by a consumer of `usage.alerts`. All clocks are this machine's.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from meterstream.deploy.bench import budgets, checks
from meterstream.deploy.bench.budgets import BenchBudget
from meterstream.deploy.bench.live import AGGREGATOR, until_folded
from meterstream.deploy.bench.paced import PacedSender
from meterstream.deploy.bench.process import Child
from meterstream.deploy.bench.results import LatencyFigures
from meterstream.deploy.bench.stages import Bench, check_stored, cpu_by_process, is_stored, preload, start, until
from meterstream.deploy.bench.workload import Lot, make_live_lot, make_lot
from meterstream.producers.simulate_totals import SimulationTotals
from meterstream.producers.simulated import Profile, SimulatedRecord
from meterstream.schema.alert import decode_alert
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.money import PICO
from meterstream.schema.stopping import stopped
from meterstream.schema.topics import ALERTS, RAW, partitions_of

ROLES: Final = ("rater", "sink-postgres", AGGREGATOR)
ALERTED_TENANTS: Final = 50
ALERTED_PROJECT: Final = "project-1"
LOAD_THRESHOLDS: Final = tuple(range(5, 101, 5))
PRIMER_EVENTS: Final = 500
BACKLOG_EVERY_S: Final = 0.25
READY_BEFORE: Final = timedelta(seconds=1)
_LEAD_S_AN_EVENT: Final = 60e-6

# The id of the transaction that wrote a row leads to its commit's time.
_LATENCIES: Final = """
    SELECT percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY wait) FROM (
        SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - occurred_at) * 1000 AS wait
        FROM meter.ledger WHERE source = $1
    ) AS waits
"""


async def latency(bench: Bench, profile: Profile) -> LatencyFigures:
    """Both roles and the load on this one machine. Raises MeterstreamError."""
    options = bench.options
    async with AsyncExitStack() as running:
        children = [await running.enter_async_context(start(bench, role)) for role in ROLES]
        await _prime(bench, profile, children)
        lot, records = await _made_beforehand(bench, profile, children[-1])
        alerts = await running.enter_async_context(AlertReader(bench.broker.client_options))
        cpu_before, own_before = cpu_by_process(bench, children), time.process_time()
        backlogs, sent_s = await _send_on_time(bench, records)
        own_s = time.process_time() - own_before
        end = await bench.broker.ends(RAW, partitions_of(RAW))
        await until(lambda: is_stored(bench, end), events=lot.sent, watched=children, what="the load")
        await until_folded(bench, children[-1], events=lot.sent, watched=children)
        cpu = {name: seconds - cpu_before[name] for name, seconds in cpu_by_process(bench, children).items()}
        alert_ms = await alerts.latencies_ms({r.events[0].id: r.events[0].time.timestamp() for r in records})
        for child in children:
            await child.stop()
    await check_stored(bench, lot)
    compared = await bench.truth.check()
    bench.say(
        f"{profile}: {lot.sent:,} events sent at {options.rate:,}/s are stored; equal are "
        f"{compared.windows:,} windows, {compared.budgets:,} budgets, {compared.alerts:,} alerts"
    )
    if not alert_ms:
        raise MeterstreamError("the load raised no alert: there is nothing to measure; give it more --load-seconds")
    p50, p99, longest = await bench.connection.fetchval(_LATENCIES, lot.source)
    return LatencyFigures(
        rate=options.rate,
        seconds=options.load_s,
        events=lot.sent,
        sent_a_second=lot.sent / sent_s,
        alerts=len(alert_ms),
        alert_p50_ms=alert_ms[len(alert_ms) // 2],
        alert_p99_ms=alert_ms[len(alert_ms) * 99 // 100],
        alert_max_ms=alert_ms[-1],
        p50_ms=float(p50),
        p99_ms=float(p99),
        max_ms=float(longest),
        backlog_half=backlogs[len(backlogs) // 2],
        backlog_end=backlogs[-1],
        cpu_us={name: seconds / lot.sent * 1e6 for name, seconds in {**cpu, "the load": own_s}.items()},
    )


async def _prime(bench: Bench, profile: Profile, children: list[Child]) -> None:
    """A first few events through all roles: they are up, and have met every topic and table."""
    lot = make_lot(f"{profile}/primer", seed=bench.options.seed + 2, events=PRIMER_EVENTS, profile=profile)
    raw = await preload(bench, lot)
    await until(lambda: is_stored(bench, raw.end), events=lot.sent, watched=children, what="the first events")
    await until_folded(bench, children[-1], events=lot.sent, watched=children)


async def _made_beforehand(bench: Bench, profile: Profile, aggregator: Child) -> tuple[Lot, list[SimulatedRecord]]:
    """The load, all of it in memory before the first event is due: making it costs as much as sending it.

    Its budgets are counted by then.
    """
    options = bench.options
    lead_s = 3 + options.rate * options.load_s * _LEAD_S_AN_EVENT
    made: list[BenchBudget] = []
    while True:
        begin = datetime.now(UTC) + timedelta(seconds=lead_s)
        lot = make_live_lot(
            f"{profile}/live", seed=options.seed + 3, rate=options.rate, load_s=options.load_s,
            profile=profile, start=begin,
        )  # fmt: skip
        records = list(lot.records)
        for record in records:
            lot.add(record)
        if not made:  # the events are the same again, but for their times
            made = _budgets(bench, profile, records)
            await _count(bench, made, aggregator)
        if datetime.now(UTC) + READY_BEFORE < begin:
            return lot, records
        lead_s *= 2


def _budgets(bench: Bench, profile: Profile, records: list[SimulatedRecord]) -> list[BenchBudget]:
    """For the busiest tenants: they spend all of them in the course of the load, a level every twentieth.

    They are of one project each: those begin at zero, whatever was spent before.
    """
    busiest = {tenant for tenant, _ in Counter(record.key.decode() for record in records).most_common(ALERTED_TENANTS)}
    totals = SimulationTotals(bench.rates)
    spent: Counter[str] = Counter()
    for record in records:
        (event,) = record.events
        if event.tenant in busiest and _project(record) == ALERTED_PROJECT:
            spent[event.tenant] += int((totals.charge(event) or 0) * PICO)
    return [
        BenchBudget(tenant, f"load-{profile}", pico, LOAD_THRESHOLDS, ALERTED_PROJECT)
        for tenant, pico in sorted(spent.items())
        if pico
    ]


def _project(record: SimulatedRecord) -> str:
    event: Any = msgspec.json.decode(record.value)
    project: str = event["data"].get("project_id", "")
    return project


async def _count(bench: Bench, made: list[BenchBudget], aggregator: Child) -> None:
    """Returns when the aggregator counts them."""

    async def are_counted() -> bool:
        await bench.truth.read_aggregates()
        return bench.truth.are_known(made)

    await bench.truth.read_priced()
    bench.truth.add(made)
    await budgets.publish(bench.broker.client_options, made)
    await until(are_counted, events=0, watched=[aggregator], what="the load's budgets")


async def _send_on_time(bench: Bench, records: Sequence[SimulatedRecord]) -> tuple[list[int], float]:
    """Sends each record when its event happens.

    -> (events sent but not stored, sampled over the load; seconds from the first event's time to the last's sending)
    """
    before = sum((await bench.broker.ends(RAW, partitions_of(RAW))).values())
    backlogs: list[int] = []
    due_s = [record.events[0].time.timestamp() for record in records]
    is_over = asyncio.Event()

    async def watch(sender: PacedSender) -> None:
        while not is_over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), BACKLOG_EVERY_S)
            if sender.sent:
                backlogs.append(before + sender.sent - await checks.stored(bench.connection))

    gc.freeze()  # the load is many objects: looking through them again and again would take a processor
    try:
        async with PacedSender(bench.broker.client_options) as sender, asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(sender))
            ended_at = await sender.send(records, due_s)
            is_over.set()
    finally:
        gc.unfreeze()
    return backlogs, ended_at - due_s[0]


class AlertReader:
    """Reads `usage.alerts` from its end on, and when each was read. Use as an async context manager."""

    def __init__(self, client_options: Mapping[str, Any]) -> None:
        self._consumer = AIOKafkaConsumer(**client_options, enable_auto_commit=False, auto_offset_reset="none")
        self._read: dict[str, float] = {}
        """Event -> when the first of its alerts was here."""

    async def __aenter__(self) -> AlertReader:
        await self._consumer.start()
        partitions = [TopicPartition(ALERTS, number) for number in range(partitions_of(ALERTS))]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_end(*partitions)
        for partition in partitions:
            await self._consumer.position(partition)  # the seek is done
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await stopped(self._consumer)

    async def latencies_ms(self, due: Mapping[str, float]) -> list[float]:
        """Of the alerts that these events (id -> when it was to be sent) have raised and that were read, ascending."""
        await asyncio.sleep(0)
        if self._task.done():
            self._task.result()
        return sorted((at - due[event]) * 1000 for event, at in self._read.items() if event in due)

    async def _follow(self) -> None:
        while True:
            batches = await self._consumer.getmany(timeout_ms=1000)
            now = time.time()
            for record in (record for records in batches.values() for record in records):
                place = decode_alert(record.value).data.place
                if place is not None:
                    self._read.setdefault(place.event_id, now)
