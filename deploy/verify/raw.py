"""What was published, against what Postgres holds: the source topics are read again, position by position.

The snapshot says up to which position each source partition is complete; the topics are read up to there. Both sides
come in order, so memory is bounded by one fetch and one page of rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer

from meterstream.deploy.connections import Connection
from meterstream.deploy.intake.raw_record import Sent, positions_of
from meterstream.deploy.verify import source_topics
from meterstream.schema import topics
from meterstream.schema.position import NOTHING_COVERED, SourcePartition, position_of, split_position
from meterstream.schema.settings import Settings
from meterstream.sinks.postgres import verify as snapshots
from meterstream.sinks.postgres.verify import DIFFERENCES_MAX, Difference, Judged, place_of


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


async def compare(settings: Settings, connection: Connection, there: set[SourcePartition]) -> tuple[RawPartition, ...]:
    """The source partitions that are `there`, and those that Postgres knows beside them, with what Postgres holds.

    `connection` is in a snapshot. Raises UsageError.
    """
    covered = dict.fromkeys(there, NOTHING_COVERED) | await snapshots.covered(connection)
    rows = _Rows(snapshots.judged(connection))
    async with source_topics.reader(settings) as consumer:
        ends = dict.fromkeys(covered, (0, 0)) | await source_topics.ends(consumer, there)
        return tuple(
            [
                await _partition(settings, consumer, rows, source, bound, ends[source])
                for source, bound in sorted(covered.items())
            ]
        )


async def _partition(
    settings: Settings,
    consumer: AIOKafkaConsumer,
    rows: _Rows,
    source: SourcePartition,
    bound: int,
    log: tuple[int, int],
) -> RawPartition:
    partition = source_topics.partition_of(source)
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
    async for record in source_topics.read(settings, consumer, partition, begin, end):
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
