"""The compiled price book: a call's tenant, provider, model, moment and context -> the rates that hold. Pure.

Rows come from the catalog (`meterstream.schema.catalog.Price`). A row holds from `valid_from` until the next known
row of the same key begins; of two rows with the same `valid_from` the higher revision counts. Which rows are for a
model: `match.py`, `scopes.py`. Which of them wins, unit by unit: `_weight`. A model whose rows have no conditions, by
far the commonest, is found with two look-ups; everything else is compiled when it is first asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final, NamedTuple

from meterstream.processors.rating.scopes import (
    Chains,
    Ladder,
    Scopes,
    begun,
    currencies,
    in_force,
    is_ambiguous,
    reachable,
    starts,
    window_key,
)
from meterstream.processors.rating.tiers import STANDARD, tier_of
from meterstream.schema.catalog import ALL_UNITS, BILLED, REPORTED_COST, Price
from meterstream.schema.money import PICO
from meterstream.schema.time_window import TimeWindow, parse_time_window

PLANS_MAX: Final = 256
"""Shapes of usage that one rate set remembers a plan for; hostile orders of units cannot grow it further."""

FOUND_MAX: Final = 4096
"""Models that a book remembers its answer for; hostile names cannot grow it further."""

PROCESSING_TAG: Final = "processing"
"""The tag in which an event says how it was processed, for vendors whose price depends on it beside the tier."""

_UNKNOWN: Final = "UNKNOWN"
"""A service tier that no row names: its price is not the standard one, and nobody has said which it is."""

_NO_TAGS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Rate:
    """`numerator / denominator` pico per unit. The denominator is 1 unless the rate has more than 12 places.

    It is what the row `price_id` says, whose rate is for `per` units, changed by the tenant's row
    `percent_price_id` where there is one.
    """

    numerator: int
    denominator: int
    per: int = 1
    price_id: int = 0
    percent_price_id: int | None = None


class Line(NamedTuple):
    """One charge line of a plan: quantity at `unit`, less the quantities at `parts`, at a rate.

    `unit` and `parts` are places in the usage, in the order in which the event gives it.
    """

    unit: int
    parts: tuple[int, ...]
    numerator: int
    denominator: int


class Plan(NamedTuple):
    """How usage of one shape is charged."""

    lines: tuple[Line, ...]
    coefficients: tuple[int, ...] | None
    """Pico that one more of each unit costs, its share of its total's line taken off: where every rate is whole, the
    amount is the sum of the products, and nothing is rounded."""


@dataclass(slots=True)
class RateSet:
    """What one model costs in one context during one stretch of time.

    `tiers`: where rates depend on how much a call used. `rates` are then those below all thresholds.
    """

    currency: str
    rates: dict[str, Rate]
    plans: dict[tuple[str, ...], Plan | None] = field(default_factory=dict)
    tiers: Tiers | None = None

    def for_usage(self, usage: Mapping[str, int | Decimal]) -> RateSet:
        """The rates at which this usage is charged, whole: itself, or those above the thresholds that it passes."""
        return self if self.tiers is None else self.tiers.of(usage)


@dataclass(slots=True)
class Tiers:
    """Thresholds by unit, ascending, and the rate sets between them. A quantity at a threshold is not above it."""

    currency: str
    rows: list[Price]
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    below: RateSet
    """For usage above no threshold, by far the commonest."""
    sets: dict[tuple[int, ...], RateSet] = field(default_factory=dict)

    def of(self, usage: Mapping[str, int | Decimal]) -> RateSet:
        """The set for this usage; at most one for each combination of thresholds is ever made."""
        for unit, thresholds in self.steps:
            if usage.get(unit, 0) > thresholds[0]:
                break
        else:
            return self.below
        passed = tuple(bisect_left(thresholds, usage.get(unit, 0)) for unit, thresholds in self.steps)
        found = self.sets.get(passed)
        if found is None:
            lowest = {
                unit: thresholds[count - 1] if count else 0
                for (unit, thresholds), count in zip(self.steps, passed, strict=True)
            }
            rows = [row for row in self.rows if row.above <= lowest.get(row.above_unit, 0)]
            found = self.sets[passed] = RateSet(self.currency, _rates(rows))
        return found


@dataclass(slots=True)
class Terms:
    """The rows of a model that hold during one stretch of time, where not all of them are for every call."""

    currency: str
    rows: list[Price]
    service_tiers: frozenset[str]
    regions: frozenset[str]
    processings: frozenset[str]
    windows: tuple[TimeWindow, ...]
    sets: dict[tuple[str, str, str, tuple[bool, ...]], RateSet] = field(default_factory=dict)
    standard: RateSet | None = None
    """For calls of the standard tier, by far the commonest, where neither region, processing nor hours matter."""

    def __post_init__(self) -> None:
        if not (self.regions or self.processings or self.windows or STANDARD in self.service_tiers):
            standard = _rate_set(self.currency, [row for row in self.rows if not row.service_tier])
            self.standard = standard if standard.rates or standard.tiers else None

    def in_context(self, moment: datetime, tier: str, region: str, processing: str) -> RateSet | None:
        """`tier` as of `tier_of`. Remembers one set for each combination of what rows name, not of what calls name."""
        open_now = tuple(window.is_open(moment) for window in self.windows)
        context = (
            tier if tier in self.service_tiers or tier == STANDARD else _UNKNOWN,
            region if region in self.regions else "",
            processing if processing in self.processings else "",
            open_now,
        )
        found = self.sets.get(context)
        if found is None:
            is_open = {
                "": True,
                **{str(window): is_open for window, is_open in zip(self.windows, open_now, strict=True)},
            }
            rows = [
                row
                for row in self.rows
                if row.service_tier in ("", context[0])
                and (context[0] is not _UNKNOWN or _is_for_unknown_tiers(row))
                and row.region in ("", context[1])
                and row.processing in ("", context[2])
                and is_open[window_key(row)]
            ]
            found = self.sets[context] = _rate_set(self.currency, rows)
        return found if found.rates or found.tiers else None


class Timeline:
    """`sets[i]` holds from `starts[i]` on; None: nothing is priced then. At least one."""

    __slots__ = ("newest", "newest_start", "sets", "starts")

    def __init__(self, starts: list[datetime], sets: list[RateSet | Terms | None]) -> None:
        self.starts = starts
        self.sets = sets
        self.newest_start = starts[-1]
        self.newest = sets[-1]

    def before_newest(self, moment: datetime) -> RateSet | Terms | None:
        """What holds at an aware moment before the newest start; None before the first one."""
        place = bisect_right(self.starts, moment)
        return self.sets[place - 1] if place else None


class Book:
    """All prices of one revision. Reading never blocks; never changed after it is made but for what it remembers."""

    def __init__(self, prices: Iterable[Price], revision: int) -> None:
        """Uses only rows up to and including `revision`."""
        self.revision = revision
        self._scopes = Scopes(price for price in prices if price.revision <= revision)
        self._found: dict[tuple[str | None, str, str], Timeline | None] = {}
        self._timelines: dict[tuple[str | None, str, Chains], Timeline | None] = {}
        self._billing: dict[tuple[str | None, str, str], Timeline] = {}
        self._buyers = self._scopes.buyers

    def lookup(
        self,
        tenant: str,
        provider: str,
        model: str,
        moment: datetime,
        service_tier: str = "",
        region: str = "",
        tags: Mapping[str, str] = _NO_TAGS,
    ) -> RateSet | None:
        """The rates for this call at its event time (aware), or None. `charge` picks the tier by quantity.

        The context is what the event's data say: `service_tier`, `region`, and PROCESSING_TAG among its tags.
        """
        key = (tenant if tenant in self._buyers else None, provider, model)
        try:
            timeline = self._found[key]
        except KeyError:
            timeline = self._find(*key)
        if timeline is None:
            return None
        found = timeline.newest if moment >= timeline.newest_start else timeline.before_newest(moment)
        if type(found) is Terms:
            if not service_tier or service_tier == "standard":
                standard = found.standard
                if standard is not None:
                    return standard
            return found.in_context(moment, tier_of(provider, service_tier), region, tags.get(PROCESSING_TAG, ""))
        if service_tier and service_tier != STANDARD and tier_of(provider, service_tier) != STANDARD:
            return None
        return found  # type: ignore[return-value]  # mypy does not narrow by `type()`, which is the faster

    def bills_reported(
        self,
        tenant: str,
        provider: str,
        model: str,
        moment: datetime,
        service_tier: str,
        region: str,
        tags: Mapping[str, str],
        usage: Mapping[str, int | Decimal],
    ) -> Rate | None:
        """What is billed of the cost that the vendor reports for this call: pico for one unit of its currency.

        None: the computed cost is billed, as it is unless a row says otherwise. Arguments as for `lookup`; a
        tenant's percent on the common row may depend on them.
        """
        if provider not in self._scopes.reporting:
            return None  # by far the commonest
        key = (tenant if tenant in self._buyers else None, provider, model)
        timeline = self._billing.get(key)
        if timeline is None:
            ladders = self._scopes.billing(*key)
            if not ladders:
                return None
            if len(self._billing) >= FOUND_MAX:
                self._billing.clear()
            timeline = self._billing[key] = _timeline(ladders)
        found = timeline.newest if moment >= timeline.newest_start else timeline.before_newest(moment)
        if isinstance(found, Terms):
            found = found.in_context(moment, tier_of(provider, service_tier), region, tags.get(PROCESSING_TAG, ""))
        return None if found is None else found.for_usage(usage).rates.get(REPORTED_COST)

    def begins(self, tenant: str, provider: str, model: str) -> datetime | None:
        """When the first price of this model begins, withdrawn or not; None: no row is for it."""
        timeline = self._find(tenant if tenant in self._buyers else None, provider, model)
        return None if timeline is None else timeline.starts[0]

    def withdrawn_since(self, tenant: str, provider: str, model: str, moment: datetime) -> datetime | None:
        """When the last price of this model ended, where all that had begun are withdrawn at that moment; else None."""
        buyer = tenant if tenant in self._buyers else None
        rates = self._scopes.chains(buyer, provider, model)._replace(percent=())
        rows = begun(self._scopes.ladders(buyer, provider, rates), moment)
        ends = [row.valid_from for row in rows if row.valid_from <= moment]
        return None if in_force(rows, moment) else max(ends, default=None)

    def _find(self, tenant: str | None, provider: str, model: str) -> Timeline | None:
        chains = self._scopes.chains(tenant, provider, model)
        key = (tenant if chains.own or chains.percent else None, provider, chains)
        if key not in self._timelines:
            if len(self._timelines) >= FOUND_MAX:
                self._timelines.clear()
            ladders = self._scopes.ladders(*key)
            self._timelines[key] = _timeline(ladders) if chains.own or chains.common else None
        if len(self._found) >= FOUND_MAX:
            self._found.clear()
        self._found[tenant, provider, model] = timeline = self._timelines[key]
        return timeline


def _timeline(ladders: list[Ladder]) -> Timeline:
    moments = starts(ladders)
    return Timeline(moments, [_terms_at(begun(ladders, moment), moment) for moment in moments])


def _terms_at(rows: list[Price], moment: datetime) -> RateSet | Terms | None:
    reached = reachable(rows, moment)
    known = currencies(reached)
    if len(known) != 1 or is_ambiguous(reached):
        return None  # nothing, or a mixture that cannot be added, or two answers: unpriced, never guessed
    currency = known.pop()
    windows = {window_key(row): parse_time_window(row.time_window) for row in reached if row.time_window}
    terms = Terms(
        currency,
        reached,
        # A common row that gives way to the tenant's own still says that the vendor has that tier.
        service_tiers=frozenset(row.service_tier for row in in_force(rows, moment)) - {""},
        regions=frozenset(row.region for row in reached) - {""},
        processings=frozenset(row.processing for row in reached) - {""},
        windows=tuple(windows.values()),
    )
    is_agreed = any(row.tenant is not None and row.percent is None for row in reached)
    if terms.service_tiers or terms.regions or terms.processings or windows or is_agreed:
        return terms
    return _rate_set(currency, reached)


def _is_for_unknown_tiers(row: Price) -> bool:
    """A tenant's own rate for every call is what was agreed, and a vendor's cost is one in any tier."""
    return row.tenant is not None or row.unit == REPORTED_COST


def _rate_set(currency: str, rows: list[Price]) -> RateSet:
    thresholds: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row.above:
            thresholds[row.above_unit].add(row.above)
    below = RateSet(currency, _rates([row for row in rows if not row.above]))
    if not thresholds:
        return below
    steps = tuple((unit, tuple(sorted(values))) for unit, values in thresholds.items())
    return RateSet(currency, below.rates, tiers=Tiers(currency, rows, steps, below))


def _rates(rows: list[Price]) -> dict[str, Rate]:
    """Per unit the row of the greatest weight, and the tenant's percent on it where it is a common one."""
    chosen: dict[str, Price] = {}
    percents: dict[str, Price] = {}
    for row in rows:
        best = chosen if row.percent is None else percents
        if row.unit not in best or _weight(best[row.unit]) < _weight(row):
            best[row.unit] = row
    return {
        unit: _rate(row, None if row.tenant else percents.get(unit, percents.get(ALL_UNITS)))
        for unit, row in chosen.items()
        if unit != REPORTED_COST or row.rate != BILLED["computed"]
    }


def _weight(row: Price) -> tuple[object, ...]:
    """Whose it is first; then what it names, in this order; then the higher threshold; then the newer row."""
    return (
        row.tenant is not None,
        row.service_tier != "",
        row.region != "",
        row.processing != "",
        row.time_window != "",
        row.above,
        row.revision,
        row.price_id,
    )


def _rate(row: Price, percent: Price | None) -> Rate:
    exact = Fraction(row.rate) * PICO / row.per
    if percent is None or percent.percent is None:
        return Rate(exact.numerator, exact.denominator, row.per, row.price_id)
    exact *= 1 + Fraction(percent.percent) / 100
    return Rate(exact.numerator, exact.denominator, row.per, row.price_id, percent.price_id)
