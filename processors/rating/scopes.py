"""Which price rows are for a call's model, and what among the rows of a book contradicts itself. Pure.

A *ladder* is what the rows of one scope (everybody's rates, a tenant's own, its percents) say of one model: a rung for
each way of naming it, the nearest first. At a moment the nearest rung that has begun is the only one that holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, product
from typing import NamedTuple

from meterstream.processors.rating.match import Chain, ModelKey, Names, share_a_model
from meterstream.schema.catalog import ALL_UNITS, REPORTED_COST, Price
from meterstream.schema.time_window import parse_time_window

Ladder = Sequence[Sequence[Price]]

Scope = tuple[str | None, str, bool]
"""Tenant (None: everybody), provider, and whether its rows are percents."""


class Chains(NamedTuple):
    """How the rows for a call are named: the tenant's own rates, its percents, everybody's rates."""

    own: Chain
    percent: Chain
    common: Chain


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


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """From `start` on two patterns stand for the same models: nothing that both stand for is priced then."""

    tenant: str | None
    provider: str
    patterns: tuple[str, str]
    start: datetime
    prices: tuple[Price, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """From `start` on two prices for the same calls hold at the same hours: one of them would be a guess."""

    start: datetime
    prices: tuple[Price, Price]


@dataclass(frozen=True, slots=True)
class Shadow:
    """From `start` on nearer prices of a model, which say less, end `lost`: wider ones by which it was priced."""

    tenant: str | None
    provider: str
    key: ModelKey
    start: datetime
    lost: tuple[Price, ...]


class Scopes:
    """Rows by whose they are and how they name their models."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._rows: dict[Scope, dict[ModelKey, list[Price]]] = {}
        self._billing: dict[tuple[str | None, str], list[Price]] = {}
        for price in prices:
            if price.unit == REPORTED_COST and price.percent is None:
                self._billing.setdefault((price.tenant, price.provider), []).append(price)
                continue
            scope = (price.tenant, price.provider, price.percent is not None)
            self._rows.setdefault(scope, {}).setdefault((price.match, price.model), []).append(price)
        self._names = {scope: Names(rows) for scope, rows in self._rows.items()}
        self.reporting = frozenset(provider for _, provider in self._billing)
        """Providers whose reported costs are billed, for somebody."""
        self.buyers = frozenset(key[0] for key in (*self._rows, *self._billing) if key[0] is not None)
        """Tenants with rows of their own."""

    def chains(self, tenant: str | None, provider: str, model: str) -> Chains:
        """`tenant` None: one without rows of its own."""
        own: Chain = ()
        percent: Chain = ()
        if tenant is not None:
            own = self._chain((tenant, provider, False), model)
            percent = self._chain((tenant, provider, True), model)
        return Chains(own, percent, self._chain((None, provider, False), model))

    def _chain(self, scope: Scope, model: str) -> Chain:
        names = self._names.get(scope)
        return () if names is None else names.find(model)

    def ladders(self, tenant: str | None, provider: str, chains: Chains) -> list[Ladder]:
        """The rows of what `chains` found."""
        return [
            self._ladder((tenant, provider, False), chains.own),
            self._ladder((tenant, provider, True), chains.percent),
            self._ladder((None, provider, False), chains.common),
        ]

    def _ladder(self, scope: Scope, chain: Chain) -> Ladder:
        return [[row for key in group for row in self._rows[scope][key]] for group in chain]

    def ladders_of(self, model: str) -> list[Ladder]:
        """What each scope of each provider says of a model."""
        return [self._ladder(scope, self._chain(scope, model)) for scope in self._rows]

    def billing(self, tenant: str | None, provider: str, model: str) -> list[Ladder]:
        """What says which cost is billed, with the tenant's percents on it; empty where nothing does."""
        common: list[Ladder] = [[self._billing.get((None, provider), [])]]
        if tenant is None:
            return common if any(common[0]) else []
        said: list[Ladder] = [[self._billing.get((tenant, provider), [])], *common]
        scope = (tenant, provider, True)
        return [*said, self._ladder(scope, self._chain(scope, model))] if any(map(any, said)) else []

    def mixable(self) -> Iterator[tuple[str | None, str, str, list[Ladder]]]:
        """(tenant, provider, model, ladders) of every set of rows of which one call may need several."""
        for (tenant, provider, is_percent), rows in self._rows.items():
            if is_percent:
                continue
            common = self._rows.get((None, provider, False), {}) if tenant is not None else {}
            for key, own in rows.items():
                if tenant is None or key[0] != "exact":
                    yield tenant, provider, key[1], [[own]]
            if tenant is not None:
                for name in sorted({name for match, name in (*rows, *common) if match == "exact"}):
                    chains = self.chains(tenant, provider, name)
                    if chains.own:
                        yield tenant, provider, name, self.ladders(tenant, provider, chains._replace(percent=()))
            for key, other in product(rows, common):
                if key[0] != "exact" != other[0] and share_a_model(key, other):
                    yield tenant, provider, key[1], [[rows[key]], [common[other]]]

    def patterns(self) -> Iterator[tuple[str | None, str, ModelKey, ModelKey, list[Price]]]:
        """Each two patterns of one scope that share a model, with their rows."""
        for (tenant, provider, _), rows in self._rows.items():
            for key, other in combinations(sorted(key for key in rows if key[0] == "pattern"), 2):
                if share_a_model(key, other):
                    yield tenant, provider, key, other, rows[key] + rows[other]

    def named(self) -> Iterator[tuple[Scope, ModelKey, list[Price]]]:
        """The rows of each name of each scope."""
        for scope, by_key in self._rows.items():
            for key, rows in by_key.items():
                yield scope, key, rows

    def of(self, scope: Scope, key: ModelKey) -> list[Price]:
        """The rows of one name of one scope."""
        return self._rows.get(scope, {}).get(key, [])

    def wider(self, scope: Scope, key: ModelKey) -> list[Ladder]:
        """What the models of a name would be priced by, were it not there: one ladder, or of a prefix several."""
        names = self._names.get(scope)
        return [] if names is None else [self._ladder(scope, chain) for chain in names.wider(key)]


def begun(ladders: Iterable[Ladder], moment: datetime) -> list[Price]:
    """Of each ladder the rows of the nearest rung of which any has begun, withdrawn or not."""
    rows: list[Price] = []
    for ladder in ladders:
        rows += next((rung for rung in ladder if any(row.valid_from <= moment for row in rung)), [])
    return rows


def starts(ladders: Iterable[Ladder]) -> list[datetime]:
    """Every moment at which something begins, ascending."""
    return sorted({row.valid_from for ladder in ladders for rung in ladder for row in rung})


def reachable(rows: list[Price], moment: datetime) -> list[Price]:
    """Those in force, without common rates of a unit for which the tenant has its own rate for every call."""
    rows = in_force(rows, moment)
    own = {row.unit for row in rows if row.tenant is not None and row.percent is None and _is_for_every_call(row)}
    return [row for row in rows if row.tenant is not None or row.unit not in own]


def in_force(rows: list[Price], moment: datetime) -> list[Price]:
    """The newest row of each key that has begun, without those that are withdrawn."""
    newest: dict[tuple[object, ...], Price] = {}
    for row in rows:
        if row.valid_from > moment:
            continue
        key = (row.tenant, row.percent is None, row.match, row.model, row.unit, *_condition(row))
        best = newest.get(key)
        if best is None or (best.valid_from, best.revision, best.price_id) < (
            row.valid_from,
            row.revision,
            row.price_id,
        ):
            newest[key] = row
    return [row for _, row in sorted(newest.items(), key=_by_key) if not row.withdrawn]


def _by_key(item: tuple[tuple[object, ...], Price]) -> tuple[str, ...]:
    return tuple(str(part or "") for part in item[0])


def currencies(rows: Iterable[Price]) -> set[str]:
    """Of the rates among them."""
    return {row.currency for row in rows if row.percent is None}


def is_ambiguous(rows: Iterable[Price]) -> bool:
    """Whether several patterns of one scope are among them."""
    patterns: dict[tuple[str | None, bool], set[str]] = defaultdict(set)
    for row in rows:
        if row.match == "pattern":
            patterns[row.tenant, row.percent is not None].add(row.model)
    return any(len(names) > 1 for names in patterns.values())


def window_key(row: Price) -> str:
    """The hours at which it holds, in the one way to write them; empty: always."""
    return str(parse_time_window(row.time_window)) if row.time_window else ""


def _is_for_every_call(row: Price) -> bool:
    return not (row.service_tier or row.region or row.processing or row.time_window or row.above)


def _condition(row: Price) -> tuple[object, ...]:
    above = (row.above, row.above_unit) if row.above else ()
    return (row.service_tier, row.region, row.processing, window_key(row), *above)


def mixtures(prices: Iterable[Price]) -> list[Mixture]:
    """Every stretch, past and coming, in which a book of these prices cannot price a model for its currencies."""
    found: list[Mixture] = []
    for tenant, provider, model, ladders in Scopes(prices).mixable():
        for start in starts(ladders):
            reached = reachable(begun(ladders, start), start)
            if len(currencies(reached)) > 1:
                found.append(Mixture(tenant, provider, model, start, tuple(reached)))
    return found


def ambiguities(prices: Iterable[Price]) -> list[Ambiguity]:
    """The first stretch in which each two patterns that share a model are both in force."""
    found: list[Ambiguity] = []
    for tenant, provider, (_, one), (_, other), rows in Scopes(prices).patterns():
        for start in starts([[rows]]):
            holding = in_force(rows, start)
            if len({row.model for row in holding}) > 1:
                found.append(Ambiguity(tenant, provider, (one, other), start, tuple(holding)))
                break
    return found


def overlaps(prices: Iterable[Price]) -> list[Overlap]:
    """The first stretch in which each two prices, the same but for their hours, have hours in common."""
    alike: dict[tuple[object, ...], list[Price]] = defaultdict(list)
    for row in prices:
        if row.time_window:
            above = (row.above, row.above_unit) if row.above else ()
            context = (row.service_tier, row.region, row.processing, *above)
            whose = (row.tenant, row.provider, row.match, row.model, row.percent is None)
            alike[(*whose, row.unit, *context)].append(row)
    return [found for rows in alike.values() for found in _overlaps(rows)]


def _overlaps(rows: list[Price]) -> Iterator[Overlap]:
    known: set[tuple[str, str]] = set()
    for start in starts([[rows]]):
        for one, other in combinations(in_force(rows, start), 2):
            pair = (window_key(one), window_key(other))
            if pair not in known and parse_time_window(pair[0]).overlaps(parse_time_window(pair[1]), start):
                known.add(pair)
                yield Overlap(start, (one, other))


def shadows(before: Iterable[Price], added: Iterable[Price]) -> list[Shadow]:
    """Where added prices of a name say less of its models than the wider ones by which these were priced before.

    The nearest name that has begun is the only one that counts, so what only the wider ones say would be lost. A row
    that is withdrawn says something.
    """
    wide = Scopes(before)
    found: list[Shadow] = []
    for scope, key, new in Scopes(added).named():
        old = wide.of(scope, key)
        for ladder in wide.wider(scope, key):
            for start in starts([ladder, [old, new]]):
                rows = begun([ladder], start)
                lost = _unsaid(rows, old + new, start)
                if lost and lost != _unsaid(rows, old, start):
                    found.append(Shadow(scope[0], scope[1], key, start, tuple(lost)))
                    break
    return found


def _unsaid(wider: list[Price], nearer: list[Price], moment: datetime) -> list[Price]:
    """Which of the wider rows in force have no counterpart among the nearer ones, once any of these has begun."""
    said = {(row.unit, _condition(row)) for row in nearer if row.valid_from <= moment}
    return [
        row
        for row in in_force(wider, moment)
        if said and not said & {(row.unit, _condition(row)), (ALL_UNITS, _condition(row))}
    ]
