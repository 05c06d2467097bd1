"""The compiled price book: (tenant, provider, model) and a moment -> the rates that hold. Pure.

Rows come from the catalog (`meterstream.schema.catalog.Price`). A rate holds from `valid_from` until the
next known row of the same key begins; of two rows with the same `valid_from` the higher revision counts.
A tenant's own row wins over the global one, unit by unit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Final, NamedTuple

from meterstream.schema.catalog import Price
from meterstream.schema.money import PICO

PLANS_MAX: Final = 256
"""Shapes of usage that one rate set remembers a plan for; hostile orders of units cannot grow it further."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`numerator / denominator` pico per unit. The denominator is 1 unless the rate has more than 12 places.

    It is what the row `price_id` says, whose rate is for `per` units.
    """

    numerator: int
    denominator: int
    per: int = 1
    price_id: int = 0


class Line(NamedTuple):
    """One charge line of a plan: quantity at `unit`, less the quantities at `parts`, at a rate.

    `unit` and `parts` are places in the usage, in the order in which the event gives it.
    """

    unit: int
    parts: tuple[int, ...]
    numerator: int
    denominator: int


Plan = tuple[Line, ...] | None
"""None: some unit has no price, neither itself nor a total that includes it."""


@dataclass(slots=True)
class RateSet:
    """What one model costs during one stretch of time."""

    currency: str
    rates: dict[str, Rate]
    plans: dict[tuple[str, ...], Plan] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timeline:
    """`sets[i]` holds from `starts[i]` on; None: nothing is priced then."""

    starts: list[datetime]
    sets: list[RateSet | None]

    def at(self, moment: datetime) -> RateSet | None:
        """The rates at an aware moment; None before the first one."""
        if moment >= self.starts[-1]:
            return self.sets[-1]
        place = bisect_right(self.starts, moment)
        return self.sets[place - 1] if place else None


_Model = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Mixture:
    """From `start` on the rates of a model are of several currencies: nothing is priced then.

    `tenant` None: for every tenant without prices of its own. `prices`: those in force, by unit.
    """

    tenant: str | None
    provider: str
    model: str
    start: datetime
    prices: tuple[Price, ...]


class Book:
    """All prices of one revision. Reading never blocks; never changed after it is made but for plans."""

    def __init__(self, prices: Iterable[Price], revision: int) -> None:
        """Uses only rows up to and including `revision`."""
        self.revision = revision
        self._global: dict[_Model, Timeline] = {}
        self._tenant: dict[tuple[str, str, str], Timeline] = {}
        for tenant, model, rows in _by_buyer(price for price in prices if price.revision <= revision):
            if tenant is None:
                self._global[model] = _timeline(rows, None)
            else:
                self._tenant[(tenant, *model)] = _timeline(rows, tenant)

    def lookup(self, tenant: str, provider: str, model: str, moment: datetime) -> RateSet | None:
        """The rates for this call at its event time (aware), or None."""
        timeline = self._tenant.get((tenant, provider, model)) if self._tenant else None
        if timeline is None:
            timeline = self._global.get((provider, model))
        return None if timeline is None else timeline.at(moment)


def mixtures(prices: Iterable[Price]) -> list[Mixture]:
    """Every stretch, past and coming, in which a book of these prices cannot price a model for its currencies."""
    found: list[Mixture] = []
    for tenant, (provider, model), rows in _by_buyer(prices):
        for start in _starts(rows):
            chosen = _in_force(rows, tenant, start)
            if len({price.currency for price in chosen.values()}) > 1:
                found.append(Mixture(tenant, provider, model, start, tuple(chosen.values())))
    return found


def _by_buyer(prices: Iterable[Price]) -> Iterator[tuple[str | None, _Model, list[Price]]]:
    """The rows that count for whoever has no prices of its own (None), and for each tenant that has some."""
    by_model: dict[_Model, list[Price]] = defaultdict(list)
    tenants: dict[_Model, set[str]] = defaultdict(set)
    for price in prices:
        model = (price.provider, price.model)
        by_model[model].append(price)
        if price.tenant is not None:
            tenants[model].add(price.tenant)
    for model, rows in by_model.items():
        common = [row for row in rows if row.tenant is None]
        if common:
            yield None, model, common
        for tenant in sorted(tenants[model]):
            yield tenant, model, [row for row in rows if row.tenant in (None, tenant)]


def _starts(rows: list[Price]) -> list[datetime]:
    return sorted({row.valid_from for row in rows})


def _timeline(rows: list[Price], tenant: str | None) -> Timeline:
    starts = _starts(rows)
    return Timeline(starts, [_rates_at(rows, tenant, start) for start in starts])


def _rates_at(rows: list[Price], tenant: str | None, moment: datetime) -> RateSet | None:
    chosen = _in_force(rows, tenant, moment)
    currencies = {row.currency for row in chosen.values()}
    if len(currencies) != 1:
        return None  # nothing, or a mixture that cannot be added: unpriced, never guessed
    return RateSet(currencies.pop(), {unit: _rate(row) for unit, row in chosen.items()})


def _in_force(rows: list[Price], tenant: str | None, moment: datetime) -> dict[str, Price]:
    """The rows in force at `moment`: per unit the tenant's own if it has one, else the global one."""
    in_force: dict[tuple[str, bool], Price] = {}
    for row in rows:
        if row.valid_from > moment:
            continue
        key = (row.unit, row.tenant is not None)
        best = in_force.get(key)
        if best is None or (best.valid_from, best.revision, best.price_id) < (
            row.valid_from,
            row.revision,
            row.price_id,
        ):
            in_force[key] = row
    chosen: dict[str, Price] = {}
    for (unit, is_own), row in sorted(in_force.items()):  # own (True) sorts after global and replaces it
        if not row.withdrawn:
            chosen[unit] = row
        elif is_own and tenant is not None:
            continue  # a tenant's withdrawn price falls back to the global one
    return chosen


def _rate(row: Price) -> Rate:
    exact = Fraction(row.rate) * PICO / row.per
    return Rate(exact.numerator, exact.denominator, row.per, row.price_id)
