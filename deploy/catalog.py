"""Prices, tenants and budgets from Postgres to `meter.catalog`, for the raters and the aggregators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from meterstream.deploy.connections import Connection
from meterstream.deploy.failures import kafka_said
from meterstream.deploy.kafka import client_options
from meterstream.schema import topics
from meterstream.schema.budget import Budget
from meterstream.schema.catalog import CONDITIONS, BudgetEntry, Entry, Head, Price, Tenant, encode_entry
from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.settings import Settings

TURN_WAIT_S: Final = 60.0
REQUEST_TIMEOUT_MS: Final = 15_000

# An advisory lock on a key of our own: publications take turns, so a later head never stands before an earlier one.
_PUBLISHING: Final = 0x6D65_7465_7200_0002


@dataclass(frozen=True)
class Published:
    """What the topic holds now, at least."""

    revision: int
    prices: int
    tenants: int
    budgets: int
    """Removed ones included: a reader that was away must learn of the removal."""


async def publish(connection: Connection, settings: Settings) -> Published:
    """Writes every price, tenant and budget, then the head. Idempotent; two at once take turns.

    The whole book is written each time: entries are few, a key is written over with the same value, and so
    nothing has to remember what was published before. Blocks on database and broker, at most TURN_WAIT_S for its
    turn. Raises UsageError for the broker, asyncpg's errors for the database.
    """
    async with _turn(connection):
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            prices = [price_of(row) for row in await connection.fetch("SELECT * FROM meter.prices ORDER BY price_id")]
            tenants = [
                Tenant(tenant=row["tenant"], privacy=row["privacy"])
                for row in await connection.fetch("SELECT tenant, privacy FROM meter.tenants ORDER BY tenant")
            ]
            budgets = [_entry(row) for row in await connection.fetch(_NEWEST_BUDGETS)]
            revision: int = await connection.fetchval("SELECT coalesce(max(revision), 0) FROM meter.price_revisions")
        await _send(settings, [*prices, *tenants, *budgets], Head(revision))
    return Published(revision, len(prices), len(tenants), len(budgets))


async def publish_budget(connection: Connection, settings: Settings, tenant: str, name: str) -> None:
    """Writes the newest version of one budget, and nothing of the prices: they may be many. Otherwise as `publish`."""
    async with _turn(connection):
        row = await connection.fetchrow(_NEWEST_BUDGET, tenant, name)
        await _send(settings, [] if row is None else [_entry(row)])


_NEWEST_BUDGET: Final = "SELECT * FROM meter.budgets WHERE tenant = $1 AND name = $2 ORDER BY version DESC LIMIT 1"
_NEWEST_BUDGETS: Final = "SELECT DISTINCT ON (tenant, name) * FROM meter.budgets ORDER BY tenant, name, version DESC"


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


def _entry(row: asyncpg.Record) -> BudgetEntry:
    fields = dict(budget_of(row))
    return BudgetEntry(**fields | {"amount": _plain(row["amount"]), "changed_at": row["created_at"]})


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
