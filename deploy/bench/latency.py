"""Publish -> row committed, at a stated load.

Open loop: an event's `time` is when it is to be sent, fixed beforehand, so a stall of anything counts for every
event behind it. The commit's time is Postgres' own (`track_commit_timestamp`), for every row.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from meterstream.deploy.bench import checks
from meterstream.deploy.bench.options import Profile
from meterstream.deploy.bench.process import Child
from meterstream.deploy.bench.results import LatencyFigures
from meterstream.deploy.bench.stages import Bench, check_stored, is_stored, preload, start, until
from meterstream.deploy.bench.workload import Lot, make_live_lot, make_lot
from meterstream.producers.simulated import SimulatedRecord
from meterstream.producers.transport.kafka import KafkaTransport
from meterstream.schema.topics import RAW, partitions_of

PRIMER_EVENTS: Final = 500
BACKLOG_EVERY_S: Final = 0.25
YIELD_EVERY: Final = 50
"""A sender that is behind lets the client work after so many records."""
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
        children = [await running.enter_async_context(start(bench, role)) for role in ("rater", "sink-postgres")]
        await _prime(bench, profile, children)
        lot, records = _made_beforehand(bench, profile)
        backlogs = await _send_on_time(bench, lot, records)
        end = await bench.broker.ends(RAW, partitions_of(RAW))
        await until(lambda: is_stored(bench, end), events=lot.sent, watched=children, what="the load")
        for child in children:
            await child.stop()
    await check_stored(bench, lot)
    bench.say(f"{profile}: {lot.sent:,} events sent at {options.rate:,}/s are stored")
    p50, p99, longest = await bench.connection.fetchval(_LATENCIES, lot.source)
    return LatencyFigures(
        rate=options.rate,
        seconds=options.load_s,
        events=lot.sent,
        p50_ms=float(p50),
        p99_ms=float(p99),
        max_ms=float(longest),
        backlog_half=backlogs[len(backlogs) // 2],
        backlog_end=backlogs[-1],
    )


async def _prime(bench: Bench, profile: Profile, children: list[Child]) -> None:
    """A first few events through both roles: they are up, and have met every topic and table."""
    lot = make_lot(f"{profile}/primer", seed=bench.options.seed + 2, events=PRIMER_EVENTS, profile=profile)
    raw = await preload(bench, lot)
    await until(lambda: is_stored(bench, raw.end), events=lot.sent, watched=children, what="the first events")


def _made_beforehand(bench: Bench, profile: Profile) -> tuple[Lot, list[SimulatedRecord]]:
    """The load, all of it in memory before the first event is due: making it costs as much as sending it."""
    options = bench.options
    lead_s = 0.5 + options.rate * options.load_s * _LEAD_S_AN_EVENT
    while True:
        begin = datetime.now(UTC) + timedelta(seconds=lead_s)
        lot = make_live_lot(
            f"{profile}/live", seed=options.seed + 3, rate=options.rate, load_s=options.load_s,
            profile=profile, start=begin,
        )  # fmt: skip
        records = list(lot.records)
        if datetime.now(UTC) < begin:
            return lot, records
        lead_s *= 2


async def _send_on_time(bench: Bench, lot: Lot, records: list[SimulatedRecord]) -> list[int]:
    """Sends each record when its event happens; -> events sent but not stored, sampled over the load."""
    before = sum((await bench.broker.ends(RAW, partitions_of(RAW))).values())
    backlogs: list[int] = []

    is_over = asyncio.Event()

    async def watch() -> None:
        while not is_over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), BACKLOG_EVERY_S)
            if lot.sent:
                backlogs.append(before + lot.sent - await checks.stored(bench.connection))

    async with KafkaTransport(bench.broker.client_options) as transport, asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        for count, record in enumerate(records):
            wait_s = record.events[0].time.timestamp() - time.time()
            if wait_s > 0 or count % YIELD_EVERY == 0:
                await asyncio.sleep(max(wait_s, 0))
            await transport.send(record.topic, record.key, record.value, record.headers)
            lot.add(record)
        is_over.set()
    return backlogs
