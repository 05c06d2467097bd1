"""What the tests of the sink's transaction share: rows, packs, a log as Kafka would keep it, a prepared database."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiokafka.structs import ConsumerRecord

from meterstream.schema.coverage import milliseconds
from meterstream.schema.ids import claim_key, id_time_ms, uuid7
from meterstream.schema.pack import COVERAGE_HEADERS, Covered, Row, encode_coverage, encode_pack
from meterstream.schema.position import SourcePartition
from meterstream.schema.topics import PRICED, REJECTED
from meterstream.sinks.postgres.service import PostgresSink

PASSWORD = "for-tests"
NOW = datetime.now(UTC).replace(microsecond=0)
SOURCE = SourcePartition(1, 0)
P0 = (PRICED, 0)
REFUSED = (REJECTED, 0)


def row(position: int, **changes: Any) -> Row:
    """A row of `acme` with an id of its own."""
    fields: dict[str, Any] = {
        "position": position,
        "tenant": "acme",
        "event_id": uuid7(NOW, position),
        "source": "svc",
        "body": 1,
        "occurred_at": NOW,
        "appended_at": NOW,
        "provider": "openai",
        "model": "gpt",
        "operation": "chat",
        "project_id": "p",
        "user_id": "u",
        "api_key_id": "k",
        "status": "ok",
        "status_code": 200,
        "latency_ms": 120,
        "pricing": "priced",
        "price_revision": 7,
        "currency": "USD",
        "amount_pico": 1_500_000_000_001,
        "input_tokens": 10,
        "output_tokens": 20,
        "cache_read_tokens": 3,
        "cache_write_tokens": 4,
        "reasoning_tokens": 5,
    } | changes
    event_id = fields["event_id"]
    fields.setdefault("claim", claim_key(fields["tenant"], fields["source"], event_id, id_time_ms(event_id)))
    return Row(**fields)


def pack(rows: list[Row], *, lo: int | None = None, hi: int | None = None, source: SourcePartition = SOURCE) -> bytes:
    values = [tuple(getattr(r, name) for name in Row.__struct_fields__) for r in rows]
    return encode_pack(
        source,
        rows[0].position if lo is None else lo,
        rows[-1].position if hi is None else hi,
        values,
        max(milliseconds(r.appended_at) for r in rows),
    )


@dataclass
class Log:
    """Partitions of our topics, as Kafka would keep them, and a sink that reads them."""

    sink: PostgresSink
    records: dict[tuple[str, int], list[ConsumerRecord[Any, Any]]] = field(default_factory=dict)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)

    def append(
        self, partition: tuple[str, int], value: bytes | None, *, key: bytes | None = None, coverage: bool = False
    ) -> None:
        log = self.records.setdefault(partition, [])
        headers = COVERAGE_HEADERS if coverage else ()
        size = 0 if value is None else len(value)
        log.append(ConsumerRecord(*partition, len(log), 0, 0, key, value, None, 0, size, tuple(headers)))

    def cover(self, partition: tuple[str, int], lo: int, hi: int, source: SourcePartition = SOURCE) -> None:
        self.append(partition, encode_coverage([Covered(*source, lo, hi, 0)]), coverage=True)

    async def claim(self, *partitions: tuple[str, int]) -> None:
        self.offsets = dict(await self.sink.claim(dict.fromkeys(partitions or self.records, 0)))

    def take(self) -> None:
        for partition, offset in self.offsets.items():
            fresh = self.records.get(partition, [])[offset:]
            if fresh:
                self.sink.take(partition, fresh)
                self.offsets[partition] = fresh[-1].offset + 1

    async def store(self, *packs: bytes, partition: tuple[str, int] = P0) -> None:
        """Appends the packs, then reads and stores all that is new."""
        for value in packs:
            self.append(partition, value)
        if partition not in self.offsets:
            await self.claim(*self.records)
        self.take()
        await self.sink.flush()

    async def start_anew(self) -> None:
        """As the loop does after an error: what is stored says where to go on; the next `store` reads it all again."""
        await self.sink.reset()
        self.offsets.clear()


class Server:
    """A prepared database, seen by an administrator."""

    def __init__(self, ingest_dsn: str, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        self.ingest_dsn = ingest_dsn
        self.admin = admin
        self.sinks: list[PostgresSink] = []

    def log(self, records: dict[tuple[str, int], list[ConsumerRecord[Any, Any]]] | None = None, **options: Any) -> Log:
        sink = PostgresSink(self.ingest_dsn, **({"cluster_id": "c1", "policy": "month"} | options))
        self.sinks.append(sink)
        return Log(sink, {} if records is None else records)

    async def count(self, table: str) -> int:
        count: int = await self.admin.fetchval(f"SELECT count(*) FROM meter.{table}")
        return count

    async def dump(self) -> dict[str, list[asyncpg.Record]]:
        tables = ("ledger", "duplicates", "rejected", "rollup_hourly", "rollup_daily", "claims_timed", "claims_hashed")
        return {table: await self.admin.fetch(f"SELECT t::text FROM meter.{table} t ORDER BY 1") for table in tables}
