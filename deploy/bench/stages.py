"""The stages over one profile: preload, run real roles, check, measure.

CPU per event is a slope: (large run - small run) / (events of the large - of the small), so that what a process
uses to start and to stop drops out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from meterstream.deploy.bench import checks
from meterstream.deploy.bench.broker import Broker, Offsets
from meterstream.deploy.bench.cpu import cpu_seconds, postgres_cpu
from meterstream.deploy.bench.live_truth import LiveTruth
from meterstream.deploy.bench.options import Options
from meterstream.deploy.bench.process import Child, Usage, start_role
from meterstream.deploy.bench.results import BoxFigures, RaterFigures, SinkFigures
from meterstream.deploy.bench.testbed import Testbed
from meterstream.deploy.bench.workload import Lot, make_lot
from meterstream.processors.rating.service import GROUP
from meterstream.producers.send import send_records
from meterstream.producers.simulate_totals import Rates
from meterstream.producers.simulated import Profile
from meterstream.producers.transport.kafka import KafkaTransport
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.settings import PREFIX
from meterstream.schema.topics import PRICED, RAW, partitions_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

POLL_S: Final = 0.05
SLOWEST_RATE: Final = 500
"""Events a second below which a stage is given up."""
PATIENCE_S: Final = 45.0
LAST_LINES: Final = 12


@dataclass(frozen=True)
class Bench:
    """What every stage works with."""

    options: Options
    testbed: Testbed
    broker: Broker
    connection: Connection
    """The benchmark's own; its backend is never counted."""
    rates: Rates
    truth: LiveTruth
    """Of what the aggregator must make of everything that was priced."""
    say: Callable[[str], None]

    @property
    def own_backend(self) -> int:
        """Process id of the backend of `connection`."""
        return self.connection.get_server_pid()


@dataclass(frozen=True)
class Preloaded:
    """A lot that is in a topic, and where."""

    lot: Lot
    start: Offsets
    end: Offsets


@dataclass(frozen=True)
class Run:
    """One run of one role over one lot. Seconds of CPU."""

    events: int
    role: Usage
    broker_s: float
    backends_s: float
    background_s: float
    rollup_rows: int
    """New ones, hourly and daily."""
    output: tuple[Offsets, Offsets]
    """Of `usage.priced`: where the run began and ended."""


def slope(small: float, large: float, small_events: int, large_events: int) -> float:
    """Seconds -> µs per event. Start-up differs by some 30 ms: with few events the slope is noise, even negative."""
    return (large - small) / (large_events - small_events) * 1e6


def slope_of(small: Run, large: Run, seconds: Callable[[Run], float]) -> float:
    """µs per event of one of the runs' figures."""
    return slope(seconds(small), seconds(large), small.events, large.events)


async def until(is_done: Callable[[], Awaitable[bool]], *, events: int, watched: list[Child], what: str) -> None:
    """Polls until it is true. Raises MeterstreamError when a watched process ends, or it takes far too long."""
    limit_s = PATIENCE_S + events / SLOWEST_RATE
    deadline = time.monotonic() + limit_s
    while not await is_done():
        for child in watched:
            child.check_alive()
        if time.monotonic() > deadline:
            last = "".join(f"\n{child.name}: {line}" for child in watched for line in child.output()[-LAST_LINES:])
            raise MeterstreamError(f"{what} is not done after {limit_s:.0f} s{last}")
        await asyncio.sleep(POLL_S)


async def preload(bench: Bench, lot: Lot, topic: str = RAW) -> Preloaded:
    """Sends a whole lot while no role runs."""
    partitions = partitions_of(RAW)
    start = await bench.broker.ends(topic, partitions)
    async with KafkaTransport(bench.broker.client_options) as transport:
        await send_records(lot.records, transport, sent=lot.add)
    return Preloaded(lot, start, await bench.broker.ends(topic, partitions))


def start(bench: Bench, role: str, **settings: str) -> Child:
    """A role as its supervisor would start it; `settings` win over the user's."""
    changed = {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}
    return start_role(role, env=bench.testbed.role_environment() | changed, log=bench.testbed.log(role))


async def is_rated(bench: Bench, end: Offsets) -> bool:
    """Whether the rater has committed everything before `end`."""
    return await bench.broker.committed(GROUP, RAW) == end


async def is_stored(bench: Bench, end: Offsets) -> bool:
    """Whether the sink has stored everything before `end` of the raw topic."""
    return await checks.stored(bench.connection) >= sum(end.values())


async def _measured(
    bench: Bench, role: str, raw: Preloaded, is_done: Callable[[Bench, Offsets], Awaitable[bool]]
) -> Run:
    testbed, events = bench.testbed, raw.lot.sent
    kafka, postmaster = testbed.pid("kafka"), testbed.pid("postgres")
    rollup_rows = await checks.rollup_rows(bench.connection)
    priced_start = await bench.broker.ends(PRICED, partitions_of(PRICED))
    broker_before, postgres_before = cpu_seconds(kafka), postgres_cpu(postmaster)
    async with start(bench, role) as child:
        await until(lambda: is_done(bench, raw.end), events=events, watched=[child], what=role)
        postgres = postgres_cpu(postmaster)
        usage = await child.stop()
    return Run(
        events=events,
        role=usage,
        broker_s=cpu_seconds(kafka) - broker_before,
        backends_s=postgres.backends_since(postgres_before, but={bench.own_backend}),
        background_s=postgres.background_since(postgres_before, but={bench.own_backend}),
        rollup_rows=await checks.rollup_rows(bench.connection) - rollup_rows,
        output=(priced_start, await bench.broker.ends(PRICED, partitions_of(PRICED))),
    )


# ------------------------------------------------------------------------------------------ the roles alone


@dataclass(frozen=True)
class Alone:
    """A small and a large lot, each rated and stored with nothing else running."""

    lots: tuple[Preloaded, Preloaded]
    rater: RaterFigures
    sink: SinkFigures | None


async def roles_alone(bench: Bench, profile: Profile) -> Alone:
    """The rater over each lot, then the sink over what the rater made of it. Raises MeterstreamError."""
    small, large = bench.options.warm_events, bench.options.events
    # Twice the small one: the first run of all meets a broker that has compiled nothing yet.
    sizes = (small, small, large)
    with_sink = "sink" in bench.options.stages_to_run
    lots: list[Preloaded] = []
    rated: list[Run] = []
    stored: list[Run] = []
    packed: list[checks.Priced] = []
    for turn, size in enumerate(sizes):
        lot = make_lot(f"{profile}/alone/{turn}", seed=bench.options.seed, events=size, profile=profile)
        raw = await preload(bench, lot)
        run = await _measured(bench, "rater", raw, is_rated)
        found = await checks.priced(bench.broker, *run.output, lot.source)
        found.must_be(lot.sent, lot.amount_pico(bench.rates, with_duplicates=True), "usage.priced")
        bench.say(f"{profile}: the rater has priced {lot.sent:,} events, each once, of the right sum")
        lots.append(raw)
        rated.append(run)
        packed.append(found)
        if with_sink:
            stored.append(await _measured(bench, "sink-postgres", raw, is_stored))
            await check_stored(bench, lot)
            bench.say(f"{profile}: the sink has stored {lot.accepted:,} rows, {lot.duplicates:,} re-sends counted")
    return Alone(
        (lots[1], lots[2]), _rater_figures(rated[1:], lots[2].lot, packed[2]), _sink_figures(bench, stored[1:])
    )


async def check_stored(bench: Bench, lot: Lot) -> None:
    """The lot in the ledger, and its re-sends. Raises MeterstreamError."""
    found = await checks.ledger(bench.connection, lot.source)
    found.must_be(lot.accepted, lot.amount_pico(bench.rates, with_duplicates=False), "the ledger")
    counted = await checks.duplicates(bench.connection, lot.source)
    if counted != lot.duplicates:
        raise MeterstreamError(f"the run is void: {counted} re-sends were counted, {lot.duplicates} were sent")


def _rater_figures(runs: list[Run], lot: Lot, packed: checks.Priced) -> RaterFigures:
    small, large = runs
    return RaterFigures(
        events=large.events,
        cpu_us=slope_of(small, large, lambda run: run.role.cpu_s),
        broker_us=slope_of(small, large, lambda run: run.broker_s),
        rss_peak_bytes=large.role.rss_peak_bytes,
        record_bytes=lot.value_bytes / lot.sent,
        rows_a_pack=packed.events / packed.packs,
        packed_bytes=packed.value_bytes / packed.events,
    )


def _sink_figures(bench: Bench, runs: list[Run]) -> SinkFigures | None:
    if not runs:
        return None
    small, large = runs
    return SinkFigures(
        events=large.events,
        client_us=slope_of(small, large, lambda run: run.role.cpu_s),
        backends_us=slope_of(small, large, lambda run: run.backends_s),
        background_us=slope_of(small, large, lambda run: run.background_s),
        broker_us=slope_of(small, large, lambda run: run.broker_s),
        rollup_rows=large.rollup_rows / large.events,
        rss_peak_bytes=large.role.rss_peak_bytes,
        postgres_bytes=bench.testbed.memory_bytes("postgres"),
    )


# --------------------------------------------------------------------------------------------- the whole box


@dataclass(frozen=True)
class _Moment:
    at: float
    events: int
    """Of the lot: begun with at the first moment, stored at the last."""
    cpu_s: dict[str, float]


async def whole_box(bench: Bench, profile: Profile) -> BoxFigures:
    """Rater and sink at once over a preloaded topic. Raises MeterstreamError.

    The sink waits for the rater, which starts last. Time runs from the rater's first commit that is seen to the
    sink's last; what was priced before is not counted as done in that time.
    """
    lot = make_lot(f"{profile}/box", seed=bench.options.seed + 1, events=bench.options.events, profile=profile)
    raw = await preload(bench, lot)
    begun, end = sum(raw.start.values()), sum(raw.end.values())
    first: _Moment | None = None
    backlog_max = 0
    claims = await checks.claims_of_partitions(bench.connection)
    async with AsyncExitStack() as running:
        sink = await running.enter_async_context(start(bench, "sink-postgres"))

        async def is_waiting() -> bool:
            return await checks.claims_of_partitions(bench.connection) > claims

        await until(is_waiting, events=0, watched=[sink], what="the sink's start")
        rater = await running.enter_async_context(start(bench, "rater"))

        async def is_done() -> bool:
            nonlocal first, backlog_max
            stored = await checks.stored(bench.connection)
            priced = sum((await bench.broker.committed(GROUP, RAW)).values())
            if first is None and priced > begun:
                first = _Moment(time.monotonic(), priced - begun, cpu_by_process(bench, [rater, sink]))
            backlog_max = max(backlog_max, priced - stored)
            return stored >= end

        await until(is_done, events=lot.sent, watched=[rater, sink], what="the whole box")
        last = _Moment(time.monotonic(), lot.sent, cpu_by_process(bench, [rater, sink]))
        for child in (rater, sink):
            await child.stop()
    await check_stored(bench, lot)
    bench.say(f"{profile}: everything at once has stored {lot.accepted:,} rows; lag 0 at the end")
    return _box_figures(last if first is None else first, last, backlog_max)


def _box_figures(first: _Moment, last: _Moment, backlog_max: int) -> BoxFigures:
    events = last.events - first.events
    if not events:
        return BoxFigures(0, None, backlog_max, {})
    return BoxFigures(
        events=events,
        events_a_second=events / (last.at - first.at),
        backlog_max=backlog_max,
        cpu_us={name: (last.cpu_s[name] - first.cpu_s[name]) / events * 1e6 for name in last.cpu_s},
    )


def cpu_by_process(bench: Bench, children: list[Child]) -> dict[str, float]:
    """Seconds so far of each role and of the servers; the benchmark's own backend is left out."""
    postgres = postgres_cpu(bench.testbed.pid("postgres"))
    return {
        **{child.name: cpu_seconds(child.pid) for child in children},
        "postgres backends": sum(seconds for pid, seconds in postgres.backends.items() if pid != bench.own_backend),
        "postgres background": postgres.background_s,
        "kafka": cpu_seconds(bench.testbed.pid("kafka")),
    }
