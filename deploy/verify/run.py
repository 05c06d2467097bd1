"""`meterstream verify` and `where`, over the servers: what the snapshot says, and what the topics say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from meterstream.deploy import topics as broker_topics
from meterstream.deploy.connections import Address, Connection, connect, resolve
from meterstream.deploy.failures import explain
from meterstream.deploy.intake.raw_record import positions_of
from meterstream.deploy.verify import live as verify_live
from meterstream.deploy.verify import raw as verify_raw
from meterstream.deploy.verify import source_topics
from meterstream.deploy.verify.live import LiveReport
from meterstream.deploy.verify.raw import RawPartition
from meterstream.schema.errors import UsageError
from meterstream.schema.position import NOTHING_COVERED, SourcePartition, split_position
from meterstream.schema.settings import Settings
from meterstream.sinks.postgres import verify as snapshots
from meterstream.sinks.postgres.fence import another_cluster
from meterstream.sinks.postgres.verify import Report, place_of
from meterstream.sinks.postgres.where import Whereabouts
from meterstream.sinks.postgres.where import where as look_up

UNPRICED_SCAN_MAX: Final = 200_000
"""`where` reads at most this many records beyond what the sink has stored, in each source partition."""

_NO_LIVE: Final = "--no-live leaves the live aggregates out"


@dataclass(frozen=True)
class Result:
    """Of one snapshot; `raw` is None where the topics were not asked for."""

    report: Report
    raw: tuple[RawPartition, ...] | None
    live: LiveReport | None = None
    """None where it was not asked for, or no broker is known."""

    @property
    def is_good(self) -> bool:
        """Nothing disagreed."""
        return (
            self.report.is_good
            and not any(partition.different for partition in self.raw or ())
            and (self.live is None or self.live.is_good)
        )


@dataclass(frozen=True)
class Found:
    """Where an event is. `published`: places of records that hold it and are not stored yet."""

    stored: Whereabouts
    published: tuple[str, ...]
    records_scanned: int
    is_scan_complete: bool
    """False: there was more beyond the sink's position than the scan reads."""


async def verify(
    settings: Settings, *, since: datetime | None = None, is_raw: bool = False, is_live: bool = False
) -> Result:
    """Compares, changes nothing. Blocks for seconds per million events. Raises UsageError, StackError."""
    settings = resolve(settings, _needed(is_broker=is_raw or is_live))
    there = await source_topics.sources_there(settings) if is_raw else set()
    async with _reader(settings) as connection:
        if is_raw or is_live:
            with _hint(_NO_LIVE if is_live else ""):
                await _refuse_another_cluster(settings, connection)
        async with snapshots.snapshot(connection):
            # First of all: the longer it waits, the more has moved on.
            live = await _verify_live(settings, connection, since) if is_live else None
            report = await snapshots.verify(connection, since=since)
            raw = await verify_raw.compare(settings, connection, there) if is_raw else None
    return Result(report, raw, live)


def knows_broker(settings: Settings) -> bool:
    """True when a broker's address is set, or the folder's stack runs."""
    try:
        resolve(settings, ["kafka_bootstrap"])
    except UsageError:
        return False
    return True


async def _verify_live(settings: Settings, connection: Connection, since: datetime | None) -> LiveReport:
    with _hint(_NO_LIVE):
        async with source_topics.reader(settings) as consumer:
            return await verify_live.compare(consumer, connection, since)


@contextmanager
def _hint(hint: str) -> Iterator[None]:
    """Adds it to a UsageError; '': none."""
    try:
        yield
    except UsageError as error:
        if not hint:
            raise
        raise UsageError(f"{error}; {hint}") from error


async def where(
    settings: Settings, event_id: str, *, tenant: str | None = None, source: str | None = None, is_raw: bool = False
) -> Found:
    """Looks in Postgres and, with `is_raw`, in what is published but not stored yet. Raises UsageError, StackError."""
    settings = resolve(settings, _needed(is_broker=is_raw))
    there = await source_topics.sources_there(settings) if is_raw else set()
    async with _reader(settings) as connection, snapshots.snapshot(connection):
        if is_raw:
            await _refuse_another_cluster(settings, connection)
        stored = await look_up(connection, event_id, tenant=tenant, source=source)
        covered = await snapshots.covered(connection)
    if not is_raw:
        return Found(stored, (), 0, is_scan_complete=True)
    return await _scan_unpriced(settings, event_id, covered, there, stored)


async def _refuse_another_cluster(settings: Settings, connection: Connection) -> None:
    """Raises UsageError where Postgres was filled from another cluster than the broker's."""
    cluster_id = await broker_topics.cluster_id(settings)
    strangers = await snapshots.clusters(connection) - {cluster_id}
    if strangers:
        raise UsageError(
            f"nothing was compared: {another_cluster(strangers, cluster_id)}. See METERSTREAM_KAFKA_BOOTSTRAP and "
            "METERSTREAM_POSTGRES_READER_DSN"
        )


def _needed(*, is_broker: bool) -> list[Address]:
    return ["postgres_reader_dsn", "kafka_bootstrap"] if is_broker else ["postgres_reader_dsn"]


@asynccontextmanager
async def _reader(settings: Settings) -> AsyncIterator[Connection]:
    connection = await connect(settings, "postgres_reader_dsn")
    try:
        yield connection
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise UsageError(explain(error) or str(error)) from error
    finally:
        await connection.close()


async def _scan_unpriced(
    settings: Settings,
    event_id: str,
    covered: dict[SourcePartition, int],
    there: set[SourcePartition],
    stored: Whereabouts,
) -> Found:
    published: list[str] = []
    scanned = 0
    is_complete = True
    async with source_topics.reader(settings) as consumer:
        ends = await source_topics.ends(consumer, there)
        for source in sorted(there):
            bound = covered.get(source, NOTHING_COVERED)
            partition = source_topics.partition_of(source)
            begin, end = ends[source]
            first = max(begin, split_position(bound + 1)[0])
            is_complete &= end - first <= UNPRICED_SCAN_MAX
            last = min(end, first + UNPRICED_SCAN_MAX)
            async for record in source_topics.read(settings, consumer, partition, first, last):
                scanned += 1
                published += [
                    place_of(*source, sent.position) for sent in positions_of(record) if sent.event_id == event_id
                ]
    return Found(stored, tuple(published), scanned, is_complete)
