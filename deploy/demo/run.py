"""`meterstream demo`: real usage through real Kafka into real Postgres, and proof that nothing is missing.

Each run publishes under a `source` of its own and counts only what it sent, by position: an earlier demo's
data stays and changes no figure. A folder that holds a user's events is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple, Protocol

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from meterstream.deploy import event_loop, stack
from meterstream.deploy.connections import administrator, resolve
from meterstream.deploy.demo import budgets as demo_budgets
from meterstream.deploy.demo import results as demo_results
from meterstream.deploy.demo.results import SOURCE_PREFIX, Outcome, Results, Sent
from meterstream.deploy.demo.watch import ROLES, LiveWatch, StallWatch
from meterstream.deploy.kafka import client_options
from meterstream.deploy.prepare import prepare
from meterstream.deploy.running import registration, supervisor
from meterstream.deploy.stack import jars
from meterstream.deploy.stack.starting import explained
from meterstream.deploy.stack.state import Folder
from meterstream.deploy.verify import run as verify
from meterstream.processors.rating.service import GROUP as RATER_GROUP
from meterstream.producers.send import send_records
from meterstream.producers.simulated import SimulatedRecord
from meterstream.producers.trace import SPAN, TraceConfig, trace_records
from meterstream.producers.transport.kafka import KafkaTransport
from meterstream.schema.errors import MeterstreamError, UsageError
from meterstream.schema.settings import Settings
from meterstream.schema.topics import RAW

POLL_S: Final = 0.25
CLOCK_MARGIN: Final = timedelta(minutes=10)
LOCK_FILE: Final = "demo.lock"


class Progress(NamedTuple):
    """Of `total` records: how many are confirmed by Kafka, priced, and accounted for in Postgres."""

    total: int
    published: int
    priced: int
    stored: int


class Listener(Protocol):
    """Who watches. Must not block."""

    def step(self, text: str) -> None:
        """What is being done now."""

    def progress(self, progress: Progress) -> None:
        """Several times a second."""


def run(settings: Settings, *, events: int | None, keep: bool, listener: Listener) -> Outcome:
    """Runs one demo in the folder of the settings; call it from the main thread. Blocks, some 20 s.

    `events`: so many of the trace's requests, evenly thinned. Whatever ends it, Ctrl-C and SIGTERM included:
    what it started is stopped, unless it came to its end with `keep`. Raises UsageError where a demo cannot
    run here, MeterstreamError where it stalls, StackError.
    """
    _refuse_other_servers(settings)
    with _only_one(settings.home), _termination_raises():
        begun = time.monotonic()
        servers_stay = keep or stack.addresses(settings.home) is not None
        with _servers(settings, listener, stay=servers_stay) as resolved:
            event_loop.run(_refuse_other_events(resolved))
            listener.step("making topics, tables and the price book")
            event_loop.run(prepare(settings))
            with _roles(resolved.home, listener, keep=keep):
                ready_s = time.monotonic() - begun
                return event_loop.run(_measure(resolved, events, listener, ready_s=ready_s, is_kept=servers_stay))


async def _measure(
    settings: Settings, events: int | None, listener: Listener, *, ready_s: float, is_kept: bool
) -> Outcome:
    now = datetime.now(UTC).replace(microsecond=0)  # as the source names it: the run can be computed from its name
    trace = TraceConfig(source=f"{SOURCE_PREFIX}{now:%Y%m%dT%H%M%SZ}", end=now - timedelta(minutes=1), events=events)
    records = list(trace_records(trace))
    wanted = demo_budgets.planned(trace.source, records)
    async with LiveWatch(settings) as live:
        listener.step(f"making {len(wanted)} budgets, once the aggregator counts")
        await live.wait_for_the_rest()
        made = await demo_budgets.make(settings, wanted)
        await live.wait_for_budgets(made)
        listener.step(f"publishing {len(records):,} events of the last 24 hours")
        begun = time.monotonic()
        sent, results = await _publish_and_wait(settings, trace, records, listener)
        stored_s = time.monotonic() - begun
        listener.step("waiting for the alerts")
        alerted = await live.alerted(made, sent)
    listener.step("verifying: topic against tables, ledger against rollups, live against stored")
    verified = await verify.verify(settings, is_raw=True, is_live=True)
    address = stack.addresses(settings.home)
    assert address is not None
    psql = stack.psql_line(settings.home, address.postgres_port)
    return Outcome(sent.source, len(records), results, alerted, verified, psql, ready_s, stored_s, is_kept)


# ------------------------------------------------------------------------------------------ what it runs on


def _refuse_other_servers(settings: Settings) -> None:
    """A demo belongs into servers of its own, not into those that a setting names."""
    named = [name for name in ("kafka_bootstrap", "postgres_admin_dsn") if str(getattr(settings, name))]
    if named:
        variables = " and ".join(f"METERSTREAM_{name.upper()}" for name in named)
        raise UsageError(f"the demo runs on servers of its own: unset {variables} and try again")


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    with explained(home):
        Folder(home).make()
    with (home / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MeterstreamError(f"a demo is running in {home}: wait for its end, or set METERSTREAM_HOME") from None
        yield


@contextmanager
def _termination_raises() -> Iterator[None]:
    """SIGTERM ends a demo as Ctrl-C does, so that what it started is stopped."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _servers(settings: Settings, listener: Listener, *, stay: bool) -> Iterator[Settings]:
    """The local stack, stopped at the end unless it ran before or the demo came to its end and it is to stay."""
    ran_before = stack.addresses(settings.home) is not None
    if ran_before:
        listener.step("using the servers that run here already")
    else:
        fetching = ", after fetching Kafka: about a minute, this once" if jars.missing(jars.jar_folder()) else ""
        listener.step(f"starting Kafka and Postgres{fetching}")
    is_left = ran_before
    try:
        stack.up(settings.home, bind_to_parent=not stay)
        yield resolve(settings)
        is_left = stay
    finally:
        if not is_left:
            with _uninterrupted():
                listener.step("stopping the servers")
                stack.down(settings.home)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave half of it running; every wait inside is bounded."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _refuse_other_events(settings: Settings) -> None:
    async with administrator(settings) as connection:
        if await demo_results.holds_other_events(connection):
            raise UsageError(
                f"{settings.home} holds events that are no demo's: the demo would mix with them. "
                "Set METERSTREAM_HOME to another folder, or run it elsewhere"
            )


@contextmanager
def _roles(home: Path, listener: Listener, *, keep: bool) -> Iterator[None]:
    """Every role, in the background. Stopped at the end unless they ran before or are kept."""
    ran_before = registration.is_running(home)
    listener.step("starting the rater, the aggregator and the Postgres sink")
    is_kept = ran_before
    try:
        supervisor.start(home, ROLES, bind_to_parent=not keep)
        yield
        is_kept = is_kept or keep
    finally:
        if not is_kept:
            with _uninterrupted():
                listener.step("stopping the roles")
                supervisor.stop(home)


# ------------------------------------------------------------------------------------------------- the run


async def _publish_and_wait(
    settings: Settings, trace: TraceConfig, records: Sequence[SimulatedRecord], listener: Listener
) -> tuple[Sent, Results]:
    options = client_options(settings)
    appended_since = datetime.now(UTC) - CLOCK_MARGIN
    async with AsyncExitStack() as cleanup:
        connection = await cleanup.enter_async_context(administrator(settings))
        transport = await cleanup.enter_async_context(KafkaTransport(options))
        admin = AIOKafkaAdminClient(**options)
        cleanup.push_async_callback(admin.close)
        await admin.start()
        publishing = asyncio.create_task(send_records(records, transport))
        cleanup.push_async_callback(_cancel, publishing)

        def sent() -> Sent:
            offsets = {partition: span for (_, partition), span in transport.offsets.items()}
            return Sent(trace.source, offsets, trace.end - SPAN - CLOCK_MARGIN, appended_since)

        watch = StallWatch(settings.home)
        while True:
            if publishing.done():
                publishing.result()
            progress = Progress(
                total=len(records),
                published=transport.acknowledged,
                priced=await _priced(admin, sent()),
                stored=(await demo_results.count(connection, sent())).stored,
            )
            listener.progress(progress)
            if publishing.done() and progress.stored >= progress.total:
                return sent(), await demo_results.read(connection, sent())
            watch.look(
                f"{progress.published} of {progress.total} records published, {progress.priced} priced, "
                f"{progress.stored} in Postgres"
            )
            await asyncio.sleep(POLL_S)


async def _cancel(task: asyncio.Task[int]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _priced(admin: AIOKafkaAdminClient, sent: Sent) -> int:
    """Records of the run that lie before what the rater has committed."""
    try:
        committed = await admin.list_consumer_group_offsets(RATER_GROUP)
    except KafkaError:  # on a new broker the first group is a moment in the making
        return 0
    done = 0
    for partition, (first, last) in sent.offsets.items():
        offset = committed.get(TopicPartition(RAW, partition))
        if offset is not None:
            done += min(max(offset.offset - first, 0), last - first + 1)
    return done
