"""`meterstream explain`: why a stored event was charged what it was, recomputed with the prices of its revision."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

import asyncpg

from meterstream.deploy import catalog
from meterstream.deploy.connections import Connection, reader, resolve
from meterstream.processors.rating.book import PROCESSING_TAG
from meterstream.processors.rating.explain import Call, Explanation, PriceList, Usage, explain
from meterstream.schema import pack
from meterstream.schema.money import to_pico
from meterstream.schema.settings import Settings
from meterstream.schema.units import COLUMN_UNITS
from meterstream.sinks.postgres.verify import place_of
from meterstream.sinks.postgres.where import where

BOOKS_KEPT_MAX: Final = 16

_ROW: Final = """
    SELECT l.*, r.created_at AS known_from
    FROM meter.ledger l LEFT JOIN meter.price_revisions r ON r.revision = l.price_revision
    WHERE l.tenant = $1 AND l.source = $2 AND l.event_id = $3 AND l.occurred_at = $4
"""
_PRICES: Final = """
    SELECT * FROM meter.prices WHERE revision <= $1 AND provider = $2 AND (tenant IS NULL OR tenant = $3)
    ORDER BY price_id
"""
_KNOWN_AT: Final = "SELECT coalesce(max(revision), 0) FROM meter.price_revisions WHERE created_at <= $1"
_NOTHING_COUNTED: Final = {"input_tokens": 0}


@dataclass(frozen=True)
class Explained:
    """A row of the ledger and its charge, computed again.

    `known_from`: when its price revision was made; None: it has none, as before the first prices. `recomputed` None:
    the event is unmetered, for `unmetered_reason`, and there is nothing to compute.
    """

    place: str
    tenant: str
    event_id: str
    source: str
    occurred_at: datetime
    appended_at: datetime
    provider: str
    model: str
    operation: str
    pricing: str
    price_revision: int
    known_from: datetime | None
    currency: str
    amount_pico: int | None
    unmetered_reason: str
    reported_amount: Decimal | None
    """What the vendor says it charged, in `reported_currency`, billed or not; None: it does not say."""
    reported_currency: str
    context: Mapping[str, str]
    """What of the call decides on its price beside model and quantities: `service_tier`, `region`, `processing`, as far
    as it says them."""
    computed_revision: int
    """Whose prices `recomputed` is of."""
    recomputed: Explanation | None

    @property
    def is_equal(self) -> bool:
        """What was charged is what is computed now, to the last 1e-12."""
        return self.recomputed is None or _agrees(self.recomputed, self.amount_pico, self.currency)


@dataclass(frozen=True)
class Found:
    """What Postgres has of an id; `searched` says where was looked."""

    rows: tuple[Explained, ...]
    searched: str


class Books:
    """Compiled prices as they were known at a revision, read once each."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: dict[tuple[int, str, str], PriceList] = {}

    async def of(self, revision: int, provider: str, tenant: str) -> PriceList:
        """All that this provider's calls of this tenant could be charged at. Blocks on the database."""
        key = (revision, provider, tenant)
        if key not in self._kept:
            rows = await self._connection.fetch(_PRICES, *key)
            if len(self._kept) >= BOOKS_KEPT_MAX:
                self._kept.clear()
            self._kept[key] = PriceList(map(catalog.price_of, rows), revision)
        return self._kept[key]


async def explain_event(
    settings: Settings, event_id: str, *, tenant: str | None = None, as_known_at: datetime | None = None
) -> Found:
    """Every charge under this id, of one tenant or all. Blocks on the database; reads only.

    `as_known_at` (aware): computed with the prices that were known then, not with those of the row's revision.
    Raises UsageError. Adjustments are not part of it: they have rows of their own.
    """
    async with reader(resolve(settings, ["postgres_reader_dsn"])) as connection:
        revision = None if as_known_at is None else await connection.fetchval(_KNOWN_AT, as_known_at)
        whereabouts = await where(connection, event_id, tenant=tenant)
        books = Books(connection)
        rows: list[Explained] = []
        for tenant, source, occurred_at in sorted({(c.tenant, c.source, c.occurred_at) for c in whereabouts.charged}):
            for record in await connection.fetch(_ROW, tenant, source, event_id, occurred_at):
                rows.append(await explain_row(record, books, revision))
    return Found(tuple(rows), whereabouts.searched)


async def explain_row(record: asyncpg.Record, books: Books, revision: int | None = None) -> Explained:
    """A row of meter.ledger with `known_from`, computed again with the prices of this revision (None: its own).

    Blocks on the database for a book not read yet.
    """
    if revision is None:
        revision = record["price_revision"]
    attributes = json.loads(record["attributes"] or "{}")
    amount_pico = None if record["amount"] is None else to_pico(record["amount"])
    recomputed = None
    if record["pricing"] != pack.UNMETERED:
        prices = await books.of(revision, record["provider"], record["tenant"])
        readings = [explain(_call(record, usage, attributes), prices) for usage in _usages(record)]
        agreeing = [reading for reading in readings if _agrees(reading, amount_pico, record["currency"])]
        recomputed = (agreeing or readings)[0]
    return Explained(
        place=place_of(record["source_id"], record["source_partition"], record["position"]),
        tenant=record["tenant"],
        event_id=record["event_id"],
        source=record["source"],
        occurred_at=record["occurred_at"],
        appended_at=record["appended_at"],
        provider=record["provider"],
        model=record["model"],
        operation=record["operation"],
        pricing=record["pricing"],
        price_revision=record["price_revision"],
        known_from=record["known_from"],
        currency=record["currency"],
        amount_pico=amount_pico,
        unmetered_reason=attributes.get("unmetered_reason", ""),
        reported_amount=record["reported_amount"],
        reported_currency=record["reported_currency"] or "",
        context=_context(record, attributes),
        computed_revision=revision,
        recomputed=recomputed,
    )


def _agrees(reading: Explanation, amount_pico: int | None, currency: str) -> bool:
    return reading.amount_pico == amount_pico and (amount_pico is None or reading.currency == currency)


def _context(record: asyncpg.Record, attributes: Mapping[str, str]) -> dict[str, str]:
    processing = json.loads(record["tags"] or "{}").get(PROCESSING_TAG, "")
    said = {
        "service_tier": attributes.get("service_tier", ""),
        "region": attributes.get("region", ""),
        "processing": processing,
    }
    return {name: value for name, value in said.items() if value}


def _call(record: asyncpg.Record, usage: Usage, attributes: Mapping[str, str]) -> Call:
    return Call(
        record["tenant"],
        record["provider"],
        record["model"],
        record["occurred_at"],
        usage,
        attributes.get("service_tier", ""),
        attributes.get("region", ""),
        json.loads(record["tags"] or "{}"),
        None if record["reported_amount"] is None else f"{record['reported_amount']:f}",
        record["reported_currency"] or "",
    )


def _usages(record: asyncpg.Record) -> Sequence[Usage]:
    """What the event counted. A row that counts nothing was sent without usage, which is one request, or with zeros:
    the ledger does not tell the two apart, but their charges do.
    """
    usage: dict[str, int | Decimal] = {unit: record[unit] for unit in COLUMN_UNITS if record[unit]}
    for unit, quantity in json.loads(record["quantities"] or "{}").items():
        usage[unit] = Decimal(quantity) if isinstance(quantity, str) else quantity
    return (usage,) if usage else ({}, _NOTHING_COUNTED)
