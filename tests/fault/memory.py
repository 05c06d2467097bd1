"""The pipeline in one process, without Kafka: rater and sink on lists, the sink's real transactions.

Time stands still unless the test moves it, so zombies, repeats and crashes happen exactly where they are
wanted. The same code runs with a part of the sink broken on purpose, to show that the comparison notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

import asyncpg

from meterstream.processors.rating.book import Book
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.producers.simulated import SimulatedRecord
from meterstream.schema import topics
from meterstream.schema.catalog import Price, decode_entry
from meterstream.schema.pack import COVERAGE_HEADERS, encode_coverage
from meterstream.schema.position import SourcePartition
from meterstream.sinks.postgres import fence, transaction
from meterstream.sinks.postgres.batch import Taken, decode, judge
from meterstream.sinks.postgres.connection import Connection
from tests.oracle.records import RawRecord

Sink = tuple[str, int]
SOURCES = topics.source_ids()
PRICED = topics.partitions_of(topics.PRICED)
REJECTED = topics.partitions_of(topics.REJECTED)
CLUSTER = "memory"


class Record(NamedTuple):
    """What the rater reads of a record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass
class Log:
    """The topics: raw by partition, and what the rater has sent to each partition of its outputs."""

    raw: dict[int, list[Record]] = field(default_factory=lambda: {p: [] for p in range(4)})
    sent: dict[Sink, list[tuple[Sequence[tuple[str, bytes]], bytes]]] = field(default_factory=dict)

    def publish(self, records: Iterable[SimulatedRecord], appended_ms: int) -> None:
        """As a producer would: a tenant's records in one partition."""
        for record in records:
            log = self.raw[crc32(record.key) % len(self.raw)]
            log.append(Record(len(log), appended_ms, record.key, record.value, record.headers))

    def for_oracle(self) -> list[RawRecord]:
        """Everything that was published."""
        return [
            RawRecord(
                "usage.raw", partition, r.offset, r.timestamp, r.value, tuple((n, bytes(v)) for n, v in r.headers)
            )
            for partition, records in self.raw.items()
            for r in records
        ]

    def rate(self, book: Book, partition: int, begin: int, end: int, *, is_covered: bool = True) -> None:
        """One life of a rater on one source partition: from a committed offset to its end, or to its death."""
        rater = Rater(Router(PRICED), book)
        outbox = Outbox(
            SourcePartition(SOURCES["usage.raw"], partition),
            start_offset=begin or None,
            priced=PRICED,
            rejected=REJECTED,
        )
        rater.rate("usage.raw", outbox, self.raw[partition][begin:end], is_backfill=False)
        for waiting in sorted(outbox.waiting):
            self._send("usage.priced", [(p.partition, p.value) for p in outbox.cut(waiting)])
        self._send("usage.rejected", [(p.partition, p.value) for p in outbox.take_rejected()])
        if is_covered:
            for topic, count, cover in (
                ("usage.priced", PRICED, outbox.cover_priced),
                ("usage.rejected", REJECTED, outbox.cover_rejected),
            ):
                for number in range(count):
                    part = cover(number)
                    if part is not None:
                        self._send(topic, [(number, encode_coverage([part]))], COVERAGE_HEADERS)

    def _send(self, topic: str, records: list[tuple[int, bytes]], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        for partition, value in records:
            self.sent.setdefault((topic, partition), []).append((headers, value))


def book_of(values: Iterable[bytes]) -> Book:
    """The compiled prices of catalog entries."""
    prices = [entry for value in values if isinstance(entry := decode_entry(value), Price)]
    return Book(prices, max(price.revision for price in prices))


class SinkProcess:
    """One sink: what it owns, as it believes, and the batch that it has taken but not stored."""

    def __init__(self, connection: Connection, log: Log) -> None:
        self._connection = connection
        self._log = log
        self._owned: dict[Sink, fence.Owned] = {}
        self._taken: dict[Sink, Taken] = {}

    async def claim(self) -> None:
        """Takes all partitions over and forgets what it had taken."""
        sinks = [("usage.priced", p) for p in range(PRICED)] + [("usage.rejected", p) for p in range(REJECTED)]
        self._owned = dict(await fence.claim(self._connection, dict.fromkeys(sinks, 0), CLUSTER))
        self._taken = {}

    def take(self, records_max: int) -> int:
        """Reads up to so many records of each partition; returns how many there were."""
        self._taken = {}
        for sink, owned in self._owned.items():
            records = self._log.sent.get(sink, [])[owned.next_offset : owned.next_offset + records_max]
            if records:
                items = [decode(sink[0], headers, value) for headers, value in records]
                self._taken[sink] = Taken(owned.next_offset + len(records), items)
        return sum(len(taken.items) for taken in self._taken.values())

    async def store(self) -> None:
        """One transaction. Raises what the sink raises."""
        batch = judge(self._taken, self._owned, frozenset(SOURCES.values()))
        await transaction.store(self._connection, batch, "month")
        for move in batch.moves:
            self._owned[move.partition] = fence.Owned(move.epoch, move.next_offset, move.covered)

    async def drain(self, records_max: int = 50) -> None:
        """Until nothing is left."""
        while self.take(records_max):
            await self.store()


EMPTY = "ledger, duplicates, rejected, claims_timed, claims_hashed, rollup_hourly, rollup_daily, sink_positions"


async def empty(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """A database as new. Needs an administrator."""
    await connection.execute("SET session_replication_role = replica")  # past the guard of the ledger
    await connection.execute(f"TRUNCATE {', '.join(f'meter.{table}' for table in EMPTY.split(', '))}")
