"""The price book in Postgres as people ask for it: listed, compared with a file, one price with its history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from meterstream.deploy import catalog
from meterstream.deploy.connections import reader
from meterstream.processors.rating.scopes import Scopes, begun, in_force
from meterstream.schema.catalog import CONDITIONS, Price
from meterstream.schema.errors import UsageError
from meterstream.schema.price_line import PriceLine, price_key
from meterstream.schema.settings import Settings


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
    return [(line, row) for line, row in pairs if row is None or terms(line) != terms(row)]


def terms(line: PriceLine | Price) -> tuple[Decimal, int, str, bool, Decimal | None]:
    """What makes a price another price; a new source or a newer check of the same rate does not."""
    percent = None if line.percent is None else Decimal(line.percent)
    return Decimal(line.rate), line.per, line.currency, line.withdrawn, percent


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

KEY_COLUMNS: Final = ", ".join(["provider", "model", "unit", *CONDITIONS, "(percent IS NULL)", "tenant"])
"""What makes two rows the same price, `valid_from` apart: `price_key` in SQL."""

# As believed at $4: of rows of the same key the one of the highest revision that was known then.
_BELIEVED: Final = f"""
    SELECT DISTINCT ON ({KEY_COLUMNS}, valid_from) *
    FROM meter.prices
    WHERE ($1::text IS NULL OR provider = $1)
      AND ($2::text IS NULL OR model = $2)
      AND ($3::text IS NULL OR tenant = $3 {{or_global}})
      AND ($4::timestamptz IS NULL OR known_from <= $4)
    ORDER BY {KEY_COLUMNS} NULLS FIRST, valid_from, revision DESC, price_id DESC
"""  # noqa: S608 - constants only

_DATED: Final = _BELIEVED.format(or_global="")
_DATED_OR_GLOBAL: Final = _BELIEVED.format(or_global="OR tenant IS NULL")

# In force at $5: the last one that began. It may be withdrawn; then there is none.
_IN_FORCE: Final = f"""
    WITH believed AS ({_DATED_OR_GLOBAL}), in_force AS (
        SELECT DISTINCT ON ({KEY_COLUMNS}) *
        FROM believed
        WHERE valid_from <= $5
        ORDER BY {KEY_COLUMNS} NULLS FIRST, valid_from DESC
    )
    SELECT * FROM in_force WHERE NOT withdrawn ORDER BY {KEY_COLUMNS} NULLS FIRST
"""  # noqa: S608 - constants only
