"""Where an event is: in the ledger, among the duplicates, rejected, or not here.

With tenant and source the claim says when the event happened, and the ledger's index does the rest. With
less, the time in the id (UUIDv7, ULID) bounds the search; without any the whole ledger is read. The
answer says which it was, because "not found" means something else in each case.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg

from meterstream.schema.ids import ID_AHEAD_MS_MAX, ID_WINDOW_DAYS, claim_key, id_time_ms
from meterstream.schema.wire_event import AGE_MAX
from meterstream.sinks.postgres.queries import query
from meterstream.sinks.postgres.verify import place_of

FOUND_MAX: Final = 100
"""Rows shown of each kind."""


@dataclass(frozen=True)
class Charged:
    """A ledger row. `amount` is None while the event has no price."""

    tenant: str
    source: str
    occurred_at: datetime
    appended_at: datetime
    place: str
    pricing: str
    price_revision: int
    currency: str
    amount: Decimal | None


@dataclass(frozen=True)
class Repeated:
    """A duplicate: it came again with the same body and was not charged."""

    tenant: str
    source: str
    appended_at: datetime
    place: str


@dataclass(frozen=True)
class Refused:
    """A rejected event; `tenant` is what it said of itself."""

    tenant: str | None
    appended_at: datetime
    place: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Whereabouts:
    """All that Postgres knows of an id; each list holds at most `FOUND_MAX`. `searched` says where was looked."""

    event_id: str
    searched: str
    charged: tuple[Charged, ...]
    repeated: tuple[Repeated, ...]
    refused: tuple[Refused, ...]

    @property
    def is_found(self) -> bool:
        """It is somewhere."""
        return bool(self.charged or self.repeated or self.refused)


@dataclass(frozen=True)
class _Bounds:
    occurred: tuple[datetime | None, datetime | None]
    appended: tuple[datetime | None, datetime | None]
    searched: str


async def where(
    connection: asyncpg.Connection[Any], event_id: str, *, tenant: str | None = None, source: str | None = None
) -> Whereabouts:
    """Looks the id up. Milliseconds with tenant and source, else a scan; role meterstream_reader.

    Raises asyncpg.PostgresError.
    """
    bounds = await _bounds(connection, event_id, tenant, source)
    charged = await connection.fetch(query("where_ledger"), event_id, tenant, source, *bounds.occurred, FOUND_MAX)
    repeated = await connection.fetch(query("where_duplicates"), event_id, tenant, source, *bounds.appended, FOUND_MAX)
    refused = await connection.fetch(query("where_rejected"), event_id, tenant, FOUND_MAX)
    return Whereabouts(
        event_id=event_id,
        searched=bounds.searched,
        charged=tuple(_charged(row) for row in charged),
        repeated=tuple(Repeated(row["tenant"], row["source"], row["appended_at"], _place(row)) for row in repeated),
        refused=tuple(
            Refused(row["tenant"], row["appended_at"], _place(row), row["reason"], row["detail"]) for row in refused
        ),
    )


async def _bounds(
    connection: asyncpg.Connection[Any], event_id: str, tenant: str | None, source: str | None
) -> _Bounds:
    time_ms = id_time_ms(event_id)
    made_at = None if time_ms is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    appended = (None, None) if made_at is None else _appended_between(made_at)
    if tenant is not None and source is not None:
        key = UUID(bytes=claim_key(tenant, source, event_id, time_ms))
        claimed = await connection.fetch(query("where_claimed"), key)
        if claimed:
            times = [row["occurred_at"] for row in claimed]
            return _Bounds((min(times), max(times)), appended, "the claim of (tenant, source, id), then the ledger")
    whose = "the ledger" if tenant is None else "this tenant's ledger"
    if made_at is None or made_at > datetime.now(UTC) + timedelta(days=1):
        why = "the id has no time to go by" if made_at is None else "the time in the id lies ahead"
        why += ", and no claim" if None not in (tenant, source) else "; tenant and source would make it quick"
        return _Bounds((None, None), appended, f"all of {whose} ({why})")
    earliest, latest = made_at - AGE_MAX, made_at + timedelta(days=ID_WINDOW_DAYS, milliseconds=2 * ID_AHEAD_MS_MAX)
    days = f"{earliest:%Y-%m-%d} to {latest:%Y-%m-%d}"
    return _Bounds((earliest, latest), appended, f"{whose} from {days}, by the time in the id; a backfill may be older")


def _appended_between(made_at: datetime) -> tuple[datetime, datetime]:
    """An admitted id was made at most this long before, and hardly after, its event was received."""
    ahead = timedelta(milliseconds=ID_AHEAD_MS_MAX)
    return made_at - ahead, made_at + timedelta(days=ID_WINDOW_DAYS) + ahead


def _charged(row: Any) -> Charged:
    return Charged(
        tenant=row["tenant"],
        source=row["source"],
        occurred_at=row["occurred_at"],
        appended_at=row["appended_at"],
        place=_place(row),
        pricing=row["pricing"],
        price_revision=row["price_revision"],
        currency=row["currency"],
        amount=row["amount"],
    )


def _place(row: Any) -> str:
    return place_of(row["source_id"], row["source_partition"], row["position"])
