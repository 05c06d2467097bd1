"""What a stage has produced, compared with what the simulator says. A run that differs is void."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from meterstream.deploy.bench.broker import Broker, Offsets
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.money import format_amount, to_pico
from meterstream.schema.pack import COVERAGE_HEADERS, decode_pack
from meterstream.schema.position import split_position
from meterstream.schema.topics import PRICED, RAW, source_ids
from meterstream.sinks.postgres import verify

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@dataclass(frozen=True)
class Found:
    """What was counted somewhere."""

    events: int
    amount_pico: int

    def must_be(self, events: int, amount_pico: int, where: str) -> None:
        """Raises MeterstreamError unless both are equal."""
        if (self.events, self.amount_pico) != (events, amount_pico):
            raise MeterstreamError(
                f"the run is void: {where} has {self.events:,} events of {format_amount(self.amount_pico)}, "
                f"expected {events:,} of {format_amount(amount_pico)}"
            )


@dataclass(frozen=True)
class Priced(Found):
    """Rows of `usage.priced`, and the packs that they came in."""

    packs: int
    value_bytes: int


async def priced(broker: Broker, start: Offsets, end: Offsets, source: str) -> Priced:
    """The rows of one source between two offsets, each position once, all of them priced."""
    seen: set[tuple[int, int]] = set()
    amount = packs = value_bytes = 0
    async for _, records in broker.read(PRICED, start, end):
        for record in records:
            if record.headers == COVERAGE_HEADERS:
                continue
            pack = decode_pack(record.value)
            packs += 1
            value_bytes += len(record.value)
            for row in pack.rows:
                place = (pack.partition, row.position)
                if row.source == source and place not in seen:
                    seen.add(place)
                    if row.amount_pico is None:
                        raise MeterstreamError(f"the run is void: {row.event_id} of {row.model} is unpriced")
                    amount += row.amount_pico
    return Priced(len(seen), amount, packs, value_bytes)


async def plain_packs(broker: Broker, topic: str, start: Offsets, end: Offsets) -> Found:
    """The rows of a floor's packs: lists whose first member is the position and whose last is the amount."""
    seen: set[tuple[int, int]] = set()
    amount = 0
    async for _, records in broker.read(topic, start, end):
        for record in records:
            pack: Any = msgspec.msgpack.decode(record.value)
            source_partition, rows = pack
            for row in rows:
                seen.add((source_partition, row[0]))
                amount += row[-1]
    return Found(len(seen), amount)


async def plain_records(broker: Broker, topic: str, start: Offsets, end: Offsets) -> Found:
    """Records of one priced event each, JSON with `amount_pico`."""
    events = amount = 0
    async for _, records in broker.read(topic, start, end):
        for record in records:
            priced_event: Any = msgspec.json.decode(record.value)
            events += 1
            amount += priced_event["amount_pico"]
    return Found(events, amount)


async def plain_alerts(broker: Broker, topic: str, alerts: str, partitions: int, levels_pico: list[int]) -> int:
    """Records of one alert each, against what the priced records of `topic` add up to: -> how many there are.

    Raises MeterstreamError unless each level that a tenant has reached has one.
    """
    spent: Counter[str] = Counter()
    start = dict.fromkeys(range(partitions), 0)
    async for _, records in broker.read(topic, start, await broker.ends(topic, partitions)):
        for record in records:
            event: Any = msgspec.json.decode(record.value)
            spent[event["tenant"]] += event["amount_pico"]
    expected = Counter((tenant, level) for tenant, pico in spent.items() for level in levels_pico if pico >= level)
    found: Counter[tuple[str, int]] = Counter()
    async for _, records in broker.read(alerts, start, await broker.ends(alerts, partitions)):
        for record in records:
            alert: Any = msgspec.json.decode(record.value)
            found[alert["tenant"], alert["level_pico"]] += 1
    if found != expected:
        raise MeterstreamError(
            f"the run is void: {alerts} has {found.total():,} alerts, expected {expected.total():,}, or others"
        )
    return found.total()


async def ledger(connection: Connection, source: str) -> Found:
    """The ledger's rows of one source."""
    row = await connection.fetchrow(
        "SELECT count(*) AS events, coalesce(sum(amount), 0) AS amount FROM meter.ledger WHERE source = $1", source
    )
    assert row is not None
    return Found(row["events"], to_pico(row["amount"]))


async def duplicates(connection: Connection, source: str) -> int:
    """The counted re-sends of one source."""
    count: int = await connection.fetchval("SELECT count(*) FROM meter.duplicates WHERE source = $1", source)
    return count


async def stored(connection: Connection) -> int:
    """How many raw records are stored whole: up to there no sink partition lacks anything. One event a record."""
    covered = await verify.covered(connection)
    raw = source_ids()[RAW]
    return sum(split_position(position)[0] + 1 for place, position in covered.items() if place.source_id == raw)


async def claims_of_partitions(connection: Connection) -> int:
    """Rises whenever a sink process takes over its partitions."""
    count: int = await connection.fetchval("SELECT coalesce(sum(epoch), 0)::bigint FROM meter.sink_positions")
    return count


async def rollup_rows(connection: Connection) -> int:
    """Rows of both rollups so far."""
    count: int = await connection.fetchval(
        "SELECT (SELECT count(*) FROM meter.rollup_hourly) + (SELECT count(*) FROM meter.rollup_daily)"
    )
    return count


async def rollups(connection: Connection) -> int:
    """Ledger against rollups and claims, everything, in one snapshot: -> what was compared.

    Raises MeterstreamError with the first differences.
    """
    async with verify.snapshot(connection):
        report = await verify.verify(connection)
    bad = [f"{check.name}: {check.different} of {check.compared}" for check in report.checks if check.different]
    if bad:
        raise MeterstreamError("the run is void: " + "; ".join(bad))
    return sum(check.compared for check in report.checks)
