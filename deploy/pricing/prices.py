"""The price book in Postgres, and its publication to `meter.catalog`.

Prices are only ever appended. Each change is one revision with one reason; `known_from` is the moment of the
revision, taken while no other revision can be made, so a higher revision is never known earlier. The topic is a
copy: every publication writes all of it, so one that was cut off is healed by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

import asyncpg

from meterstream.deploy import catalog
from meterstream.deploy.catalog import Published
from meterstream.deploy.connections import Connection, administrator, reader
from meterstream.deploy.pricing import clashes
from meterstream.processors.rating.scopes import (
    Scopes,
    begun,
    in_force,
)
from meterstream.schema import price_file
from meterstream.schema.catalog import CONDITIONS, Price
from meterstream.schema.errors import UsageError
from meterstream.schema.price_fields import VALID_FROM_MAX, VALID_FROM_MIN
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


@dataclass(frozen=True)
class Filter:
    """Which prices to list; None: all. `at` and `as_known_at` are aware.

    Without `at`: every dated price, past and coming. With it: what is in force then. `as_known_at` leaves out what
    was not known yet. `tenant`: its own prices, and with `at` also the global ones where it has none.
    `model`: as prices name it. `for_model`: the prices that are for this model, whether they name it, a prefix or a
    pattern of it; with `at` without those whose place a nearer name takes.
    """

    provider: str | None = None
    model: str | None = None
    for_model: str | None = None
    tenant: str | None = None
    at: datetime | None = None
    as_known_at: datetime | None = None


async def load_shipped(settings: Settings, lines: Sequence[PriceLine] | None = None, *, is_whole: bool = True) -> Added:
    """Adds shipped prices that are not there or differ, as one revision, then publishes. Idempotent.

    A price that a person added for the same key stays in force: it is counted as `kept`. Those of a model that a
    person priced in another currency are left out where both would hold at one time. `lines`: instead of the
    package's own. `is_whole`: see `catalog.publish`. Blocks on database and broker. Raises UsageError where one of them
    cannot be reached or is not prepared, PriceFileInvalid when the package's files are damaged.
    """
    lines = price_file.shipped() if lines is None else lines
    async with administrator(settings) as connection:
        added = await _add(connection, lines, SHIPPED_REASON)
        for reason in added.left_out:
            log.warning("new prices of this version left out: %s", reason)
        await _publish_added(connection, settings, added, is_whole=is_whole)
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
    at = wanted.valid_from
    if not VALID_FROM_MIN <= at < VALID_FROM_MAX:
        raise UsageError(f"{at:%Y-%m-%d} is before {VALID_FROM_MIN:%Y} or after {VALID_FROM_MAX:%Y}")
    dated = await list_prices(settings, Filter(wanted.provider, wanted.model, wanted.tenant))
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


async def list_prices(settings: Settings, wanted: Filter) -> list[Price]:
    """By provider, model, unit, tenant (global first), valid_from. Blocks on the database. Raises UsageError."""
    which = (wanted.provider, wanted.model, wanted.tenant, wanted.as_known_at)
    async with reader(settings) as connection:
        if wanted.for_model is not None:
            rows = await connection.fetch(_DATED_OR_GLOBAL if wanted.at else _DATED, *which)
        elif wanted.at is not None:
            rows = await connection.fetch(_IN_FORCE, *which, wanted.at)
        else:
            rows = await connection.fetch(_DATED, *which)
    prices = [catalog.price_of(row) for row in rows]
    if wanted.for_model is not None:
        prices = _for_model(prices, wanted.for_model, wanted.at)
    return _for_tenant(prices) if wanted.tenant and wanted.at else prices


async def why_none(settings: Settings, wanted: Filter) -> str:
    """For people: why `list_prices` has found nothing. Blocks on the database. Raises UsageError."""
    dated = [] if wanted.at is None else await list_prices(settings, replace(wanted, at=None))
    if not dated:
        return "no price fits: names are compared exactly; `meterstream price load` loads the prices of this version"
    days = [row.valid_from for row in dated]
    past = [day for day in days if wanted.at is not None and day <= wanted.at]
    if not past:
        return f"no price has begun then: the first one begins {min(days):%Y-%m-%dT%H:%M:%SZ}"
    return f"all are withdrawn then, the last one since {max(past):%Y-%m-%dT%H:%M:%SZ}: without --at they are listed"


async def history(settings: Settings, as_known_at: datetime | None = None) -> list[Price]:
    """Every row that was known then (None: now), corrected ones too: what a book is compiled of.

    Blocks on the database. Raises UsageError.
    """
    async with reader(settings) as connection:
        rows = await connection.fetch(_HISTORY, as_known_at)
    return [catalog.price_of(row) for row in rows]


async def diff(
    settings: Settings, lines: Iterable[PriceLine], as_known_at: datetime | None = None
) -> list[tuple[PriceLine, Price | None]]:
    """The lines that say something else than what was believed then (None: now), each with the stored price of its key.

    None: there is none. Blocks on the database. Raises UsageError.
    """
    rows = sorted(await history(settings, as_known_at), key=lambda row: (row.revision, row.price_id))
    believed = {price_key(row): row for row in rows}
    pairs = [(line, believed.get(line.key)) for line in lines]
    return [(line, row) for line, row in pairs if row is None or _terms(line) != _terms(row)]


@dataclass(frozen=True)
class Shown:
    """A stored price, and what is known of it now. `reason`: of its revision.

    `until`: where the next price of its key begins; None: nobody knows an end. `corrected_by`: the row that is
    believed in its place.
    """

    price: Price
    reason: str
    until: datetime | None
    corrected_by: Price | None


async def show(settings: Settings, price_id: int) -> Shown:
    """Blocks on the database. Raises UsageError, also where there is no such price."""
    async with reader(settings) as connection:
        row = await connection.fetchrow(_ONE, price_id)
        if row is None:
            raise UsageError(
                f"there is no price {price_id}: `meterstream price ls --json` names the ids that there are"
            )
        price = catalog.price_of(row)
        others = [catalog.price_of(other) for other in await connection.fetch(_SAME_NAME, price.provider, price.model)]
    same_key = [other for other in others if price_key(other)[:-1] == price_key(price)[:-1]]
    believed = [other for other in same_key if other.valid_from == price.valid_from][-1]
    return Shown(
        price,
        row["reason"],
        min((other.valid_from for other in same_key if other.valid_from > price.valid_from), default=None),
        None if believed.price_id == price_id else believed,
    )


_ONE: Final = (
    "SELECT p.*, r.reason FROM meter.prices p JOIN meter.price_revisions r USING (revision) WHERE price_id = $1"
)
_SAME_NAME: Final = "SELECT * FROM meter.prices WHERE provider = $1 AND model = $2 ORDER BY revision, price_id"


def _for_model(prices: list[Price], model: str, at: datetime | None) -> list[Price]:
    """Of dated prices those that are for a model, or are named so; `at`: those of them that hold then."""
    chosen: set[int] = set()
    for ladder in Scopes(prices).ladders_of(model):
        rows = [row for rung in ladder for row in rung] if at is None else in_force(begun([ladder], at), at)
        chosen |= {row.price_id for row in rows}
    if at is None:
        chosen |= {price.price_id for price in prices if price.model == model}
    return [price for price in prices if price.price_id in chosen]


def _for_tenant(prices: list[Price]) -> list[Price]:
    """Of global rows and one tenant's own: its own, and the global ones where it has none."""
    own = {_terms_key(price) for price in prices if price.tenant is not None and price.percent is None}
    return [price for price in prices if price.tenant is not None or _terms_key(price) not in own]


def _terms_key(price: Price) -> tuple[object, ...]:
    return (price.provider, price.model, price.unit, *(getattr(price, name) for name in CONDITIONS))


_HISTORY: Final = "SELECT * FROM meter.prices WHERE $1::timestamptz IS NULL OR known_from <= $1 ORDER BY price_id"

_KEY: Final = ", ".join(["provider", "model", "unit", *CONDITIONS, "(percent IS NULL)", "tenant"])

# As believed at $4: of rows of the same key the one of the highest revision that was known then.
_BELIEVED: Final = f"""
    SELECT DISTINCT ON ({_KEY}, valid_from) *
    FROM meter.prices
    WHERE ($1::text IS NULL OR provider = $1)
      AND ($2::text IS NULL OR model = $2)
      AND ($3::text IS NULL OR tenant = $3 {{or_global}})
      AND ($4::timestamptz IS NULL OR known_from <= $4)
    ORDER BY {_KEY} NULLS FIRST, valid_from, revision DESC, price_id DESC
"""  # noqa: S608 - constants only

_DATED: Final = _BELIEVED.format(or_global="")
_DATED_OR_GLOBAL: Final = _BELIEVED.format(or_global="OR tenant IS NULL")

# In force at $5: the last one that began. It may be withdrawn; then there is none.
_IN_FORCE: Final = f"""
    WITH believed AS ({_DATED_OR_GLOBAL}), in_force AS (
        SELECT DISTINCT ON ({_KEY}) *
        FROM believed
        WHERE valid_from <= $5
        ORDER BY {_KEY} NULLS FIRST, valid_from DESC
    )
    SELECT * FROM in_force WHERE NOT withdrawn ORDER BY {_KEY} NULLS FIRST
"""  # noqa: S608 - constants only

_LATEST: Final = f"""
    SELECT DISTINCT ON ({_KEY}, valid_from) prices.*, reason
    FROM meter.prices JOIN meter.price_revisions USING (revision)
    ORDER BY {_KEY}, valid_from, revision DESC, price_id DESC
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
        elif _terms(line) != (row["rate"], row["per"], row["currency"], row["withdrawn"], row["percent"]):
            if reason == SHIPPED_REASON != row["reason"]:
                kept += 1
            else:
                new.append(line)
    return new, kept


def _terms(line: PriceLine | Price) -> tuple[Decimal, int, str, bool, Decimal | None]:
    """What makes a price another price; a new source or a newer check of the same rate does not."""
    percent = None if line.percent is None else Decimal(line.percent)
    return Decimal(line.rate), line.per, line.currency, line.withdrawn, percent


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
