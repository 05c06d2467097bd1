"""`meterstream verify` and `where`, over the servers: what the snapshot says, and what the raw topics say.

`verify --raw` takes, in the snapshot, the position up to which each source partition is complete, rereads the
topics up to there with a consumer that belongs to no group, and compares the two sets position by position.
It reads records with plain `json`, so a fault of the pipeline's decoder is not repeated here. Both sides
come in order, so memory is bounded by one fetch and one page of rows.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from meterstream.deploy import topics as broker_topics
from meterstream.deploy import verify_live
from meterstream.deploy.connections import Address, Connection, connect, resolve
from meterstream.deploy.failures import explain, kafka_said
from meterstream.deploy.kafka import client_options, stopped
from meterstream.deploy.verify_live import LiveReport
from meterstream.schema import topics
from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.position import NOTHING_COVERED, SourcePartition, position_of, split_position
from meterstream.schema.settings import Settings
from meterstream.sinks.postgres import verify as snapshots
from meterstream.sinks.postgres.verify import DIFFERENCES_MAX, Difference, Judged, Report, place_of
from meterstream.sinks.postgres.where import Whereabouts
from meterstream.sinks.postgres.where import where as look_up

ARRAY_EVENTS_MAX: Final = 10_000
"""A longer array is rejected as a whole: it is part of the contract of `usage.raw`."""
UNPRICED_SCAN_MAX: Final = 200_000
"""`where` reads at most this many records beyond what the sink has stored, in each source partition."""
FETCH_BYTES: Final = 4_194_304
FETCH_WAIT_MS: Final = 10
"""A fetch at the end of one partition is in the way of the next partition's first one for so long."""
POLL_MS: Final = 1_000
READ_WITHIN_S: Final = 60.0
"""A broker that sends nothing for so long, though there is more, has failed."""

_SINGLE = ("application/cloudevents+json", "application/cloudevents-batch+json", "application/json")


class RawRecord(Protocol):
    """What is read of a Kafka record (aiokafka's ConsumerRecord has it)."""

    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Sent(NamedTuple):
    """One position of a raw record; `event_id` is None where the bytes do not say one."""

    position: int
    event_id: str | None


@dataclass(frozen=True)
class RawPartition:
    """One source partition, reread. Offsets: first and last that were read; last < first when none was."""

    name: str
    first_offset: int
    last_offset: int
    positions: int
    """Compared with Postgres, one by one."""
    judged_twice: int
    before_log_start: int
    """Rows whose records the topic no longer holds: they cannot be compared."""
    different: int
    differences: tuple[Difference, ...]


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
    there = await _sources_there(settings) if is_raw else set()
    async with _reader(settings) as connection, snapshots.snapshot(connection):
        # First of all: the longer it waits, the more has moved on.
        live = await _verify_live(settings, connection, since) if is_live else None
        report = await snapshots.verify(connection, since=since)
        raw = await _verify_raw(settings, connection, there) if is_raw else None
    return Result(report, raw, live)


def knows_broker(settings: Settings) -> bool:
    """True when a broker's address is set, or the folder's stack runs."""
    try:
        resolve(settings, ["kafka_bootstrap"])
    except UsageError:
        return False
    return True


async def _verify_live(settings: Settings, connection: Connection, since: datetime | None) -> LiveReport:
    try:
        async with _consumer(settings) as consumer:
            return await verify_live.compare(consumer, connection, since)
    except UsageError as error:
        raise UsageError(f"{error}; --no-live leaves the live aggregates out") from error


async def where(
    settings: Settings, event_id: str, *, tenant: str | None = None, source: str | None = None, is_raw: bool = False
) -> Found:
    """Looks in Postgres and, with `is_raw`, in what is published but not stored yet. Raises UsageError, StackError."""
    settings = resolve(settings, _needed(is_broker=is_raw))
    there = await _sources_there(settings) if is_raw else set()
    async with _reader(settings) as connection, snapshots.snapshot(connection):
        stored = await look_up(connection, event_id, tenant=tenant, source=source)
        covered = await snapshots.covered(connection)
    if not is_raw:
        return Found(stored, (), 0, is_scan_complete=True)
    return await _scan_unpriced(settings, event_id, covered, there, stored)


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


# ----------------------------------------------------------------------------------- a record's positions


def positions_of(record: RawRecord) -> list[Sent]:
    """Every position that the record has: one an element of an array, else index 0. Pure."""
    headers = {name.lower(): bytes(value or b"") for name, value in record.headers}
    if _is_binary(headers):
        return [Sent(position_of(record.offset), headers.get("ce_id", b"").decode("utf-8", "replace"))]
    content = _parse(record.value or b"")
    if isinstance(content, list) and _is_taken_apart(content, headers):
        return [Sent(position_of(record.offset, index), _id_of(item)) for index, item in enumerate(content)]
    return [Sent(position_of(record.offset), _id_of(content))]


def _media_type(headers: dict[str, bytes]) -> str | None:
    if "content-type" not in headers:
        return None
    return headers["content-type"].split(b";", 1)[0].strip().lower().decode("utf-8", "replace")


def _is_binary(headers: dict[str, bytes]) -> bool:
    media_type = _media_type(headers) or ""
    return any(name.startswith("ce_") for name in headers) and not media_type.startswith("application/cloudevents")


def _is_taken_apart(content: list[Any], headers: dict[str, bytes]) -> bool:
    return _media_type(headers) in (None, *_SINGLE) and 1 <= len(content) <= ARRAY_EVENTS_MAX


def _parse(value: bytes) -> Any:
    """The JSON value, or None. Only structure and ids count here: numbers stay text, wrong UTF-8 is let through."""
    try:
        # JSON's structure is ASCII, so latin-1 reads any bytes without changing what is an element of what.
        parsed = json.loads(value.decode("latin-1"), parse_int=str, parse_float=str, parse_constant=_refuse)
        if b"\\u" in value:
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no JSON text
    except (ValueError, RecursionError):
        return None
    return parsed


def _refuse(name: str) -> None:
    raise ValueError(name)


def _id_of(content: Any) -> str | None:
    found = content.get("id") if isinstance(content, dict) else None
    if not isinstance(found, str):
        return None
    try:
        return found.encode("latin-1").decode("utf-8")
    except UnicodeError:  # an escape made a character beyond latin-1, which came as it is
        return found


# ------------------------------------------------------------------------------------------ reading topics


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise Unreachable(f"the broker at {settings.kafka_bootstrap} cannot be read: {kafka_said(error)}") from error
    finally:
        await stopped(consumer)


async def _read(consumer: AIOKafkaConsumer, partition: TopicPartition, first: int, end: int) -> AsyncIterator[Any]:
    """Every record of [first, end), in order."""
    if first >= end:
        return
    consumer.assign([partition])
    consumer.seek(partition, first)
    idle_ms = 0
    while (position := await consumer.position(partition)) < end:
        batches = await consumer.getmany(partition, timeout_ms=POLL_MS)
        for record in batches.get(partition, []):
            if record.offset >= end:
                return
            yield record
        idle_ms = 0 if batches else idle_ms + POLL_MS
        if idle_ms > READ_WITHIN_S * 1000:
            raise UsageError(f"{partition.topic}/{partition.partition}: nothing came from offset {position} on")


async def _sources_there(settings: Settings) -> set[SourcePartition]:
    """Every source partition that the broker has: it may be more than the manifest says. Raises UsageError."""
    source_ids = topics.source_ids()
    return {
        SourcePartition(source_ids[topic], partition)
        for topic, count in (await broker_topics.partitions(settings, source_ids)).items()
        for partition in range(count)
    }


async def _ends(
    consumer: AIOKafkaConsumer, sources: Iterable[SourcePartition]
) -> dict[SourcePartition, tuple[int, int]]:
    """First offset and end of each log, asked at once: later the requests would queue behind fetches."""
    partitions = {source: _partition_of(source) for source in sources}
    begins = await consumer.beginning_offsets(list(partitions.values()))
    ends = await consumer.end_offsets(list(partitions.values()))
    return {source: (begins[partition], ends[partition]) for source, partition in partitions.items()}


def _partition_of(source: SourcePartition) -> TopicPartition:
    names = {source_id: topic for topic, source_id in topics.source_ids().items()}
    return TopicPartition(names[source.source_id], source.partition)


# --------------------------------------------------------------------------------------- the two, compared


class _Rows:
    """The dispositions of the snapshot, in order, with one row of look-ahead."""

    def __init__(self, rows: AsyncIterator[Judged]) -> None:
        self._rows = rows
        self._next: Judged | None = None
        self._is_started = False

    async def before(self, source: SourcePartition, position: int) -> AsyncIterator[Judged]:
        """Takes the rows that come before this position of this source partition."""
        while (row := await self._peek()) is not None and row[:3] < (*source, position):
            self._next = await anext(self._rows, None)
            yield row

    async def skip(self, source: SourcePartition) -> None:
        """Leaves out what is left of this source partition."""
        while (row := await self._peek()) is not None and row[:2] <= source:
            self._next = await anext(self._rows, None)

    async def _peek(self) -> Judged | None:
        if not self._is_started:
            self._next = await anext(self._rows, None)
            self._is_started = True
        return self._next


class _Comparison:
    """What is found in one source partition."""

    def __init__(self) -> None:
        self.positions = 0
        self.judged_twice = 0
        self.before_log_start = 0
        self.different = 0
        self.differences: list[Difference] = []

    def differ(self, source: SourcePartition, position: int, detail: str) -> None:
        self.different += 1
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(Difference(place_of(*source, position), detail))

    def compare(self, source: SourcePartition, sent: Sent, rows: list[Judged]) -> None:
        """One position of the topic with all that Postgres says of it."""
        self.positions += 1
        places = sorted(row.place for row in rows)
        if not places:
            self.differ(source, sent.position, "was published, but is in no table")
        elif len(places) == 2 and places[0] != "rejected" and places[1] == "rejected":
            self.judged_twice += 1
        elif len(places) > 1:
            self.differ(source, sent.position, f"is in {', '.join(places)}")
        for row in rows:
            if row.event_id is not None and sent.event_id is not None and row.event_id != sent.event_id:
                self.differ(
                    source, sent.position, f"is {sent.event_id!r} in the topic, {row.event_id!r} in {row.place}"
                )


async def _verify_raw(
    settings: Settings, connection: Connection, there: set[SourcePartition]
) -> tuple[RawPartition, ...]:
    covered = dict.fromkeys(there, NOTHING_COVERED) | await snapshots.covered(connection)
    rows = _Rows(snapshots.judged(connection))
    async with _consumer(settings) as consumer:
        ends = dict.fromkeys(covered, (0, 0)) | await _ends(consumer, there)
        return tuple(
            [await _compare(consumer, rows, source, bound, ends[source]) for source, bound in sorted(covered.items())]
        )


async def _compare(
    consumer: AIOKafkaConsumer, rows: _Rows, source: SourcePartition, bound: int, log: tuple[int, int]
) -> RawPartition:
    partition = _partition_of(source)
    begin, log_end = log
    end = split_position(bound)[0] + 1  # also right where nothing is covered: -1 >> 20 is -1
    found = _Comparison()
    if end > log_end:
        found.differ(source, bound, f"is covered in Postgres, but the topic ends before offset {log_end}")
        end = log_end
    async for row in rows.before(source, position_of(begin)):
        if row.source_id in topics.retired_source_ids():
            continue  # its topic is no longer read
        if row[:2] == source:
            found.before_log_start += 1
        else:
            found.differ(SourcePartition(*row[:2]), row.position, f"is in {row.place}, of a source nobody knows")
    async for record in _read(consumer, partition, begin, end):
        for sent in positions_of(record):
            if sent.position <= bound:
                await _not_published(found, rows, source, sent.position)
                here = [row async for row in rows.before(source, sent.position + 1)]
                found.compare(source, sent, here)
    await _not_published(found, rows, source, bound + 1)
    # What lies beyond the bound is on its way: the other sink partitions have not come so far.
    await rows.skip(source)
    return RawPartition(
        name=f"{partition.topic}/{partition.partition}",
        first_offset=begin,
        last_offset=end - 1,
        positions=found.positions,
        judged_twice=found.judged_twice,
        before_log_start=found.before_log_start,
        different=found.different,
        differences=tuple(found.differences),
    )


async def _not_published(found: _Comparison, rows: _Rows, source: SourcePartition, before: int) -> None:
    async for row in rows.before(source, before):
        found.differ(source, row.position, f"is in {row.place}, but was never published")


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
    async with _consumer(settings) as consumer:
        ends = await _ends(consumer, there)
        for source in sorted(there):
            bound = covered.get(source, NOTHING_COVERED)
            partition = _partition_of(source)
            begin, end = ends[source]
            first = max(begin, split_position(bound + 1)[0])
            is_complete &= end - first <= UNPRICED_SCAN_MAX
            async for record in _read(consumer, partition, first, min(end, first + UNPRICED_SCAN_MAX)):
                scanned += 1
                published += [
                    place_of(*source, sent.position) for sent in positions_of(record) if sent.event_id == event_id
                ]
    return Found(stored, tuple(published), scanned, is_complete)
