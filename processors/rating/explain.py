"""What a call costs, line by line, and why: with the rater's own book and its own charge. Pure; for people."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from meterstream.processors.rating import reported
from meterstream.processors.rating.book import Book, RateSet
from meterstream.processors.rating.price import ONE_REQUEST, charge_lines
from meterstream.processors.rating.unpriced import lacking_tier
from meterstream.schema.catalog import REPORTED_COST, Price
from meterstream.schema.money import NO_CURRENCY, PICO
from meterstream.schema.providers import OTHER_NAMES, provider_of
from meterstream.schema.units import ancestors

Usage = Mapping[str, int | Decimal]

_EXACT: Final = Context(prec=100)

REGIONS_SHOWN_MAX: Final = 20

Cause = Literal["provider", "model", "tier", "unit", "begins", "withdrawn", "region", "other"]
"""What there is no price for; `begins`: not yet, `withdrawn`: not any more."""


class PriceList:
    """Price rows with the book that a rater compiles of them."""

    def __init__(self, prices: Iterable[Price], revision: int) -> None:
        """Uses only rows up to and including `revision`."""
        rows = tuple(prices)
        self.book = Book(rows, revision)
        self._rows = {row.price_id: row for row in rows}
        self.providers = frozenset(row.provider for row in rows)

    def regions(self, provider: str, model: str) -> list[str]:
        """Those that prices of just this name are for."""
        rows = (row for row in self._rows.values() if (row.provider, row.model) == (provider, model))
        return sorted({row.region for row in rows} - {""})

    def row(self, price_id: int) -> Price:
        """Raises KeyError."""
        return self._rows[price_id]


class Call(NamedTuple):
    """What decides on a charge. `time` is aware; empty usage counts as one request, as the rater has it."""

    tenant: str
    provider: str
    model: str
    time: datetime
    usage: Usage
    service_tier: str = ""
    region: str = ""
    tags: Mapping[str, str] = {}
    reported_amount: str | None = None
    reported_currency: str = ""


@dataclass(frozen=True)
class ExplainedLine:
    """`quantity` of `unit` at `rate` of the currency for `per` units, as `price` says.

    `exact` is the product before its one rounding, `amount_pico` after it.
    """

    unit: str
    quantity: int | Decimal
    rate: Decimal
    per: int
    amount_pico: int
    exact: Fraction
    """Units of currency."""
    price: Price
    percent: Price | None = None
    """The tenant's row that has changed the rate by a percent; `rate` is the one after it."""

    @property
    def rounding(self) -> Fraction:
        """What rounding has added, in units of currency: at most half of 1e-12 either way."""
        return Fraction(self.amount_pico, PICO) - self.exact


@dataclass(frozen=True)
class Explanation:
    """The charge of a call. `amount_pico` None: it is unpriced, `lacking` names the units without a price, `why` the
    reason, for people, and `cause` its kind.
    """

    usage: Usage
    currency: str | None
    amount_pico: int | None
    lines: tuple[ExplainedLine, ...]
    lacking: tuple[str, ...] = ()
    why: str = ""
    cause: Cause | None = None
    computed: Explanation | None = None
    """By its quantities, where what the vendor reports is billed in its place."""


def explain(call: Call, prices: PriceList) -> Explanation:
    """The charge of an admitted call with its lines."""
    usage = call.usage or ONE_REQUEST
    computed = _computed(call, usage, prices)
    if call.reported_amount is None or call.reported_currency == NO_CURRENCY:
        return computed
    rate = prices.book.bills_reported(
        call.tenant, call.provider, call.model, call.time, call.service_tier, call.region, call.tags, usage
    )
    if rate is None:
        return computed
    amount_pico, quantity = reported.of(call.reported_amount, rate), Decimal(call.reported_amount)
    line = ExplainedLine(
        unit=REPORTED_COST,
        quantity=quantity,
        rate=_decimal(Fraction(rate.numerator, rate.denominator * PICO)),
        per=1,
        amount_pico=amount_pico,
        exact=Fraction(quantity) * Fraction(rate.numerator, rate.denominator * PICO),
        price=prices.row(rate.price_id),
        percent=None if rate.percent_price_id is None else prices.row(rate.percent_price_id),
    )
    return Explanation(usage, call.reported_currency, amount_pico, (line,), computed=computed)


def _computed(call: Call, usage: Usage, prices: PriceList) -> Explanation:
    rates = prices.book.lookup(
        call.tenant, call.provider, call.model, call.time, call.service_tier, call.region, call.tags
    )
    lines = None if rates is None else charge_lines(usage, rates)
    if rates is None or lines is None:
        lacking = _lacking(usage, rates)
        cause, why = _why(call, prices, rates, lacking)
        return Explanation(usage, None, None, (), lacking, why, cause)
    explained = tuple(
        ExplainedLine(
            unit=line.unit,
            quantity=line.quantity,
            rate=_decimal(Fraction(line.numerator * line.per, line.denominator * PICO)),
            per=line.per,
            amount_pico=line.amount_pico,
            exact=(line.amount_pico - line.rounding_pico) / PICO,
            price=prices.row(line.price_id),
            percent=None if line.percent_price_id is None else prices.row(line.percent_price_id),
        )
        for line in lines
    )
    return Explanation(usage, rates.currency, sum(line.amount_pico for line in explained), explained)


def _lacking(usage: Usage, rates: RateSet | None) -> tuple[str, ...]:
    priced = () if rates is None else rates.for_usage(usage).rates
    return tuple(
        unit
        for unit, quantity in usage.items()
        if quantity and unit not in priced and not any(total in priced for total in ancestors(unit))
    )


def _why(call: Call, prices: PriceList, rates: RateSet | None, lacking: tuple[str, ...]) -> tuple[Cause, str]:
    """Why a call is unpriced, and where a name is a likely slip, the name that was meant."""
    if call.provider not in prices.providers:
        return "provider", f"there are no prices of provider {call.provider!r}{_meant(call.provider, prices.providers)}"
    model = f"model {call.model!r} of {call.provider}" if call.model else f"a call of {call.provider} without a model"
    context = call.service_tier, call.region, call.tags
    tier = lacking_tier(
        prices.book, call.tenant, call.provider, call.model, call.time, *context, call.usage or ONE_REQUEST
    )
    if tier is not None:
        return "tier", f"{model}: {tier}"
    if rates is not None:
        return "unit", f"{model} has no price for {', '.join(lacking)}"
    begins = prices.book.begins(call.tenant, call.provider, call.model)
    if begins is None:
        return "model", f"there is no price for {model}"
    if call.time < begins:
        return "begins", f"the first price for {model} begins {begins:%Y-%m-%dT%H:%M:%SZ}"
    ended = prices.book.withdrawn_since(call.tenant, call.provider, call.model, call.time)
    if ended is not None:
        return "withdrawn", f"the prices for {model} are withdrawn since {ended:%Y-%m-%dT%H:%M:%SZ}"
    regions = prices.regions(call.provider, call.model)
    if regions and call.region not in regions:
        where = f"in {call.region!r}" if call.region else "in no region"
        there = ", ".join(regions[:REGIONS_SHOWN_MAX])
        return "region", f"{model} is priced by region, and the call is {where}: there is {there}"
    return "other", (
        f"the prices for {model} are for other service tiers, processing or hours then, or in several currencies or "
        "patterns"
    )


def _meant(name: str, names: Collection[str]) -> str:
    others = [other for other in OTHER_NAMES if provider_of(other) in names]
    close = difflib.get_close_matches(name.lower(), [*names, *others], n=1)
    return f": did you mean {provider_of(close[0])!r}?" if close else ""


def _decimal(rate: Fraction) -> Decimal:
    """Exact: a rate is decimal text in every book."""
    return _EXACT.divide(Decimal(rate.numerator), Decimal(rate.denominator))
