"""Changes of the price book in Postgres, and its publication to `meter.catalog`.

Prices are only ever appended. Each change is one revision with one reason; `known_from` is the moment of the
revision, taken while no other revision can be made, so a higher revision is never known earlier. The topic is a
copy: every publication writes all of it, so one that was cut off is healed by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

import asyncpg

from meterstream.deploy import catalog
from meterstream.deploy.catalog import Published
from meterstream.deploy.connections import Connection, administrator
from meterstream.deploy.pricing import clashes, compared, listing
from meterstream.schema.catalog import CONDITIONS, Price
from meterstream.schema.errors import UsageError
from meterstream.schema.price_line import PriceLine, price_key
from meterstream.schema.settings import Settings

log = logging.getLogger(__name__)

SHIPPED_REASON: Final = "prices shipped with meterstream"
REASON_LENGTH_MAX: Final = 1000

# An advisory lock on a key of our own: revisions are made one after the other.
_REVISING: Final = 0x6D65_7465_7200_0001


@dataclass(frozen=True)
class Added:
    """What one change did. `revision`: the newest one now.

    Of shipped prices: `kept`, how many a person had set before; `left_out`, the models whose new prices would have
    mixed currencies, each with the reason, for people; they are logged too.
    """

    revision: int
    rows: int
    kept: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retirement:
    """Which prices end, and when (aware): those of a model, of one buyer, as `price ls` shows them.

    `only`: fields that a price must have, such as `unit` and `service_tier`; empty: all of the model's.
    """

    provider: str
    model: str
    valid_from: datetime
    source: str
    tenant: str | None = None
    only: Mapping[str, object] = field(default_factory=dict)

    def is_for(self, price: Price) -> bool:
        """Whether it is one of those; when it holds is not asked."""
        return price.tenant == self.tenant and all(getattr(price, name) == value for name, value in self.only.items())


@dataclass(frozen=True)
class Retired:
    """`later`: prices of the same kind that begin after that moment, and stay."""

    added: Added
    later: tuple[Price, ...]


async def load_shipped(settings: Settings, lines: Sequence[PriceLine] | None = None, *, is_whole: bool = True) -> Added:
    """Adds shipped prices that are not there or differ, as one revision, then publishes. Idempotent.

    A price that a person added for the same key stays in force: it is counted as `kept`. Those of a model that a
    person priced in another currency are left out where both would hold at one time. `lines`: instead of the
    package's own. `is_whole`: see `catalog.publish`; without it the files are not even parsed where the database says
    that it has them all, and `kept` is 0 then. Blocks on database and broker. Raises UsageError where one of them
    cannot be reached or is not prepared, PriceFileInvalid when the package's files are damaged.
    """
    async with administrator(settings) as connection:
        if lines is not None:
            added = await _add(connection, lines, SHIPPED_REASON)
        else:
            added = await _add_package(connection, is_whole=is_whole)
        for reason in added.left_out:
            log.warning("new prices of this version left out: %s", reason)
        await _publish_added(connection, settings, added, is_whole=is_whole)
    return added


async def _add_package(connection: Connection, *, is_whole: bool) -> Added:
    digest = compared.files_digest()
    revision = None if is_whole else await compared.newest_revision(connection, digest)
    if revision is not None:
        return Added(revision, rows=0)
    from meterstream.schema import price_file

    lines = price_file.shipped()
    async with connection.transaction():
        added = await _add(connection, lines, SHIPPED_REASON)
        if not added.left_out:  # else each time anew: a person must hear of it until it is mended
            await compared.remember(connection, digest)
    return added


async def add(settings: Settings, lines: Sequence[PriceLine], reason: str) -> Added:
    """Adds prices as one revision, then publishes; prices that are there already are left out.

    Blocks on database and broker. Raises UsageError, also where the book would mix currencies; when it was raised
    for the broker, the prices are stored and the next publication brings them.
    """
    if reason == SHIPPED_REASON:
        raise UsageError(f"{reason!r} is kept for the prices of a release: give another reason")
    if not 0 < len(reason) <= REASON_LENGTH_MAX or not reason.isprintable():
        raise UsageError(f"a reason is one line of 1 to {REASON_LENGTH_MAX} characters")
    async with administrator(settings) as connection:
        added = await _add(connection, lines, reason)
        await _publish_added(connection, settings, added)
    return added


async def retire(settings: Settings, wanted: Retirement, reason: str) -> Retired:
    """Writes a withdrawn row for each price that is in force at `wanted.valid_from`, as one revision; publishes.

    Blocks on database and broker. Raises UsageError, also where nothing is in force then.
    """
    from meterstream.schema.price_fields import VALID_FROM_MAX, VALID_FROM_MIN

    at = wanted.valid_from
    if not VALID_FROM_MIN <= at < VALID_FROM_MAX:
        raise UsageError(f"{at:%Y-%m-%d} is before {VALID_FROM_MIN:%Y} or after {VALID_FROM_MAX:%Y}")
    dated = await listing.list_prices(settings, listing.Filter(wanted.provider, wanted.model, wanted.tenant))
    chosen = [price for price in dated if wanted.is_for(price)]
    newest: dict[tuple[object, ...], Price] = {}
    for price in chosen:  # by valid_from within a key
        if price.valid_from <= at:
            newest[price_key(price)[:-1]] = price
    in_force = [price for price in newest.values() if not price.withdrawn]
    if not in_force:
        raise UsageError(
            f"nothing to retire: no such price is in force at {at:%Y-%m-%dT%H:%M:%SZ}; "
            f"`meterstream price ls --provider {wanted.provider}` lists what there is"
        )
    added = await add(settings, [_withdrawn(price, wanted) for price in in_force], reason)
    later = [price for price in chosen if price.valid_from > at and not price.withdrawn]
    return Retired(added, tuple(later))


def _withdrawn(price: Price, wanted: Retirement) -> PriceLine:
    return PriceLine(
        provider=price.provider,
        model=price.model,
        unit=price.unit,
        rate="0",
        per=price.per,
        currency=price.currency,
        valid_from=wanted.valid_from,
        source=wanted.source,
        tenant=price.tenant,
        withdrawn=True,
        percent=None if price.percent is None else "0",
        **{name: getattr(price, name) for name in CONDITIONS},
    )


async def _publish_added(connection: Connection, settings: Settings, added: Added, *, is_whole: bool = True) -> None:
    try:
        await catalog.publish(connection, settings, is_whole=is_whole)
    except UsageError as error:
        if not added.rows:
            raise
        raise UsageError(
            f"revision {added.revision} is stored, but not published: {error}; "
            "once that is mended, `meterstream price load` publishes it"
        ) from error


async def publish(settings: Settings) -> Published:
    """Writes every price, every tenant and the head to `meter.catalog`. Idempotent; two at once take turns.

    Blocks on database and broker, at most a minute for its turn. Raises UsageError.
    """
    async with administrator(settings) as connection:
        return await catalog.publish(connection, settings)


_LATEST: Final = f"""
    SELECT DISTINCT ON ({listing.KEY_COLUMNS}, valid_from) prices.*, reason
    FROM meter.prices JOIN meter.price_revisions USING (revision)
    ORDER BY {listing.KEY_COLUMNS}, valid_from, revision DESC, price_id DESC
"""  # noqa: S608 - constants only

# The clock is read under the lock: `now()` is when the transaction began, before it had its turn.
_NEXT: Final = """
    SELECT coalesce((SELECT max(revision) FROM meter.price_revisions), 0) AS revision,
           coalesce((SELECT max(price_id) FROM meter.prices), 0) AS price_id,
           greatest(clock_timestamp(), (SELECT max(created_at) FROM meter.price_revisions)) AS moment
"""

_COLUMNS: Final = (
    "price_id",
    "revision",
    "tenant",
    "provider",
    "model",
    "unit",
    "currency",
    "rate",
    "per",
    "valid_from",
    "known_from",
    "withdrawn",
    "source",
    "checked_on",
    *CONDITIONS,
    "percent",
)


async def _add(connection: Connection, lines: Iterable[PriceLine], reason: str) -> Added:
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _REVISING)
        latest = await connection.fetch(_LATEST)
        new, kept = _new(lines, latest, reason)
        last = await connection.fetchrow(_NEXT)
        assert last is not None
        revision, moment = last["revision"] + 1, last["moment"]
        added = [
            as_row(line, price_id, revision, moment) for price_id, line in enumerate(new, start=last["price_id"] + 1)
        ]
        before = [catalog.price_of(row) for row in latest]
        places = {price.price_id: line.place or "new" for price, line in zip(added, new, strict=True)}
        if clash := clashes.contradiction(before, added, places):
            raise UsageError(f"nothing was added: {clash}")
        if reason != SHIPPED_REASON and (lost := clashes.shadowed(before, added)):
            raise UsageError(f"nothing was added: {lost}")
        mixed = clashes.new_mixtures(before, added) if added else []
        if mixed and reason != SHIPPED_REASON:
            raise UsageError("nothing was added: " + clashes.explained(mixed[0], places) + clashes.MIXTURE_FIX)
        models = {
            model: clashes.explained(mixture, places)
            for mixture in reversed(mixed)
            for model in clashes.models_in(mixture, added)
        }
        added = [price for price in added if (price.provider, price.match, price.model) not in models]
        left_out = tuple(dict.fromkeys(models.values()))
        if not added:
            return Added(last["revision"], 0, kept, left_out)
        await connection.execute(
            "INSERT INTO meter.price_revisions (revision, created_at, reason) VALUES ($1, $2, $3)",
            revision,
            moment,
            reason,
        )
        records = [tuple(_stored(price, column) for column in _COLUMNS) for price in added]
        await connection.copy_records_to_table("prices", schema_name="meter", columns=_COLUMNS, records=records)
    return Added(revision, len(added), kept, left_out)


def _new(lines: Iterable[PriceLine], latest: Iterable[asyncpg.Record], reason: str) -> tuple[list[PriceLine], int]:
    """-> (lines that say something new, how many shipped ones stand back for what a person set)."""
    known = {price_key(catalog.price_of(row)): row for row in latest}
    new: list[PriceLine] = []
    kept = 0
    for line in lines:
        row = known.get(line.key)
        if row is None:
            new.append(line)
        elif listing.terms(line) != (row["rate"], row["per"], row["currency"], row["withdrawn"], row["percent"]):
            if reason == SHIPPED_REASON != row["reason"]:
                kept += 1
            else:
                new.append(line)
    return new, kept


def as_row(line: PriceLine, price_id: int, revision: int, known_from: datetime) -> Price:
    """A line of a price file as the row that a book is compiled of. Exact."""
    return Price(
        price_id=price_id,
        revision=revision,
        tenant=line.tenant,
        provider=line.provider,
        model=line.model,
        unit=line.unit,
        currency=line.currency,
        rate=line.rate,
        per=line.per,
        valid_from=line.valid_from,
        known_from=known_from,
        withdrawn=line.withdrawn,
        source=line.source,
        checked_on=line.checked_on,
        percent=line.percent,
        **{name: getattr(line, name) for name in CONDITIONS},
    )


def _stored(price: Price, column: str) -> object:
    """As the database takes it."""
    value = getattr(price, column)
    return Decimal(value) if column in ("rate", "percent") and value is not None else value
