"""Prices, tenants and budgets from Postgres to `meter.catalog`, for the raters and the aggregators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from meterstream.deploy.connections import Connection
from meterstream.deploy.failures import kafka_said
from meterstream.deploy.kafka import client_options
from meterstream.schema import topics
from meterstream.schema.budget import Budget
from meterstream.schema.catalog import (
    CONDITIONS,
    EARLIER_BYTES,
    EARLIER_DAYS,
    EARLIER_MAX,
    BudgetEntry,
    BudgetVersion,
    Entry,
    Head,
    Price,
    Tenant,
    decode_entry,
    encode_entry,
)
from meterstream.schema.errors import RecordUnreadable, Unreachable, UsageError
from meterstream.schema.settings import Settings
from meterstream.schema.stopping import stopped

TURN_WAIT_S: Final = 60.0
REQUEST_TIMEOUT_MS: Final = 15_000
LAST_ENTRY_WAIT_MS: Final = 5_000

_TAIL_GROWTH: Final = 8
"""How many times as far back the next look begins."""

_PARTITION: Final = TopicPartition(topics.CATALOG, 0)

# An advisory lock on a key of our own: publications take turns, so a later head never stands before an earlier one.
_PUBLISHING: Final = 0x6D65_7465_7200_0002


@dataclass(frozen=True)
class Published:
    """What was written, and which revision the topic holds now."""

    revision: int
    prices: int
    tenants: int
    budgets: int
    """Removed ones included: a reader that was away must learn of the removal."""


async def publish(connection: Connection, settings: Settings, *, is_whole: bool = True) -> Published:
    """Writes every price, tenant and budget, then the head. Idempotent; two at once take turns.

    A key is written over with the same value, so nothing has to remember what was published before. Prices are many,
    and every rater reads them again: without `is_whole` they are left out where the topic's last record is the head of
    just this revision. Blocks on database and broker, at most TURN_WAIT_S for its turn. Raises UsageError for the
    broker, asyncpg's errors for the database.
    """
    async with _turn(connection):
        last = None if is_whole else await _last_entry(settings)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            newest = await connection.fetchrow("SELECT * FROM meter.price_revisions ORDER BY revision DESC LIMIT 1")
            head = Head(newest["revision"], newest["created_at"]) if newest else Head(0)
            query = "SELECT * FROM meter.prices ORDER BY price_id"
            prices = [] if last == head else [price_of(row) for row in await connection.fetch(query)]
            tenants = [
                Tenant(tenant=row["tenant"], privacy=row["privacy"])
                for row in await connection.fetch("SELECT tenant, privacy FROM meter.tenants ORDER BY tenant")
            ]
            budgets = _budgets(await connection.fetch(_BUDGETS, EARLIER_DAYS, EARLIER_MAX, None, None))
        await _send(settings, [*prices, *tenants, *budgets], head)
    return Published(head.revision, len(prices), len(tenants), len(budgets))


async def publish_budget(connection: Connection, settings: Settings, tenant: str, name: str) -> None:
    """Writes the newest version of one budget, and nothing of the prices: they may be many. Otherwise as `publish`."""
    async with _turn(connection):
        rows = await connection.fetch(_BUDGETS, EARLIER_DAYS, EARLIER_MAX, tenant, name)
        await _send(settings, _budgets(rows))


# Of each budget the newest version, and those before it that may still matter.
_BUDGETS: Final = """
    SELECT * FROM (
        SELECT *, row_number() OVER (PARTITION BY tenant, name ORDER BY version DESC) AS place,
               lead(created_at) OVER (PARTITION BY tenant, name ORDER BY version) AS followed_at
        FROM meter.budgets WHERE ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR name = $4)
    ) versions
    WHERE place = 1 OR (place <= $2 + 1 AND followed_at > now() - make_interval(days => $1))
    ORDER BY tenant, name, version
"""


def price_of(row: asyncpg.Record) -> Price:
    """A row of meter.prices as the entry of the catalog. Exact."""
    return Price(
        price_id=row["price_id"],
        revision=row["revision"],
        tenant=row["tenant"],
        provider=row["provider"],
        model=row["model"],
        unit=row["unit"],
        currency=row["currency"],
        rate=_plain(row["rate"]),
        per=row["per"],
        valid_from=row["valid_from"],
        known_from=row["known_from"],
        withdrawn=row["withdrawn"],
        source=row["source"],
        checked_on=row["checked_on"],
        percent=None if row["percent"] is None else _plain(row["percent"]),
        **{name: row[name] for name in CONDITIONS},
    )


def budget_of(row: asyncpg.Record) -> Budget:
    """A row of meter.budgets. Exact; not checked anew, since what is stored has been."""
    fields = {name: row[name] for name in Budget.model_fields}
    return Budget.model_construct(**fields | {"thresholds": tuple(row["thresholds"])})


def _budgets(rows: Sequence[asyncpg.Record]) -> list[BudgetEntry]:
    """Of rows by tenant, name and version; of each budget the last is its newest."""
    grouped = groupby(rows, key=lambda row: (row["tenant"], row["name"]))
    return [_entry(list(versions)) for _, versions in grouped]


def _entry(versions: Sequence[asyncpg.Record]) -> BudgetEntry:
    *before, newest = versions
    earlier: list[BudgetVersion] = []
    left = EARLIER_BYTES
    for row in reversed(before):
        version = BudgetVersion(**_fields(row))
        left -= len(msgspec.json.encode(version))
        if left < 0:
            break
        earlier.insert(0, version)
    return BudgetEntry(**_fields(newest), earlier=tuple(earlier))


def _fields(row: asyncpg.Record) -> dict[str, Any]:
    return dict(budget_of(row)) | {"amount": _plain(row["amount"]), "changed_at": row["created_at"]}


def _plain(rate: Decimal) -> str:
    """Decimal('2.500000000000000000') -> '2.5'. As text: Decimal.normalize() would round a rate of 30 digits."""
    text = format(rate, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@asynccontextmanager
async def _turn(connection: Connection) -> AsyncIterator[None]:
    """Held by this connection: a process that dies gives its turn back with it."""
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _PUBLISHING, timeout=TURN_WAIT_S)
    except TimeoutError as error:
        raise UsageError(f"another command has been publishing for {TURN_WAIT_S:.0f} s: try again later") from error
    try:
        yield
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _PUBLISHING)


@asynccontextmanager
async def _reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Assigned nothing yet. Raises aiokafka's errors."""
    consumer = AIOKafkaConsumer(
        **client_options(settings), enable_auto_commit=False, request_timeout_ms=REQUEST_TIMEOUT_MS
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await stopped(consumer)


async def _last_entry(settings: Settings) -> Entry | None:
    """What stands at the topic's end. None: nothing, nothing that can be read, or no topic."""
    try:
        async with _reader(settings) as consumer:
            if topics.CATALOG not in await consumer.topics():
                return None
            consumer.assign([_PARTITION])
            end = (await consumer.end_offsets([_PARTITION]))[_PARTITION]
            if not end:
                return None
            consumer.seek(_PARTITION, end - 1)
            records = await consumer.getmany(_PARTITION, timeout_ms=LAST_ENTRY_WAIT_MS)
        value = records[_PARTITION][-1].value if records else None
        return None if value is None else decode_entry(value)
    except RecordUnreadable:
        return None
    except (KafkaError, OSError) as error:
        raise Unreachable(f"cannot read the catalog from {settings.kafka_bootstrap}: {kafka_said(error)}") from error


async def last_head(settings: Settings) -> Head | None:
    """What was published last. None: nothing yet. Raters price by the highest revision that they have read.

    Reads back from the topic's end until it meets one: mostly a few records, of some ten thousand. Blocks on the
    broker. Raises aiokafka's errors.
    """
    async with _reader(settings) as consumer:
        consumer.assign([_PARTITION])
        first = (await consumer.beginning_offsets([_PARTITION]))[_PARTITION]
        end = (await consumer.end_offsets([_PARTITION]))[_PARTITION]
        start = end
        head: Head | None = None
        while head is None and start > first:
            start = max(first, end - _TAIL_GROWTH * max(end - start, 8))
            consumer.seek(_PARTITION, start)
            while await consumer.position(_PARTITION) < end:
                for record in (await consumer.getmany(_PARTITION, timeout_ms=LAST_ENTRY_WAIT_MS)).get(_PARTITION, []):
                    with suppress(RecordUnreadable):  # raters leave it aside, too
                        entry = None if record.value is None else decode_entry(record.value)
                        if isinstance(entry, Head):
                            head = entry
        return head


async def _send(settings: Settings, entries: Sequence[Entry], head: Head | None = None) -> None:
    producer = AIOKafkaProducer(
        **client_options(settings),
        enable_idempotence=True,
        compression_type="zstd",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        await producer.start()
        if not (await producer.client.fetch_all_metadata()).partitions_for_topic(topics.CATALOG):
            raise UsageError(f"there is no topic {topics.CATALOG}: run `meterstream topics apply`")
        await asyncio.gather(*[await _sent(producer, entry) for entry in entries])
        if head is not None:  # sent when everything before it is stored: it says that the revision is complete
            await (await _sent(producer, head))
    except (KafkaError, OSError) as error:
        raise Unreachable(f"cannot publish the catalog to {settings.kafka_bootstrap}: {kafka_said(error)}") from error
    finally:
        await producer.stop()


async def _sent(producer: AIOKafkaProducer, entry: Entry) -> asyncio.Future[object]:
    key, value = encode_entry(entry)
    future: asyncio.Future[object] = await producer.send(topics.CATALOG, value, key=key)
    return future
