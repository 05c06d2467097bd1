"""Usage + rates -> amount. Pure; integers of 1e-12; one rounding (half to even) per charge line.

Totals are inclusive. A priced sub-count is taken out of its nearest priced total, so that each token is
on exactly one line; a sub-count without a price of its own is paid within that total.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from operator import mul
from typing import NamedTuple

from meterstream.processors.rating.book import PLANS_MAX, Line, Plan, Rate, RateSet
from meterstream.schema.money import divide_half_even
from meterstream.schema.units import QUANTITY_PLACES_MAX, ancestors

ONE_REQUEST: Mapping[str, int] = {"requests": 1}
"""What an event without any usage counts as."""

_SCALE = 10**QUANTITY_PLACES_MAX


class ChargeLine(NamedTuple):
    """`quantity` of `unit` at `numerator / denominator` pico each; the row `price_id` says so, for `per` units.

    `quantity` is what is on this line: the inclusive total less its sub-counts that have lines of their own.
    `amount_pico` is rounded half to even; `rounding_pico` is what that added (0 where the product is whole),
    so `quantity * numerator / denominator + rounding_pico == amount_pico`.
    """

    unit: str
    quantity: int | Decimal
    numerator: int
    denominator: int
    per: int
    price_id: int
    amount_pico: int
    rounding_pico: Fraction
    percent_price_id: int | None = None
    """The tenant's row that changed the rate by a percent; the numbers are those after it."""


def charge(usage: Mapping[str, int | Decimal], rates: RateSet) -> int | None:
    """The amount in pico, or None when some quantity above zero has no price: the event is unpriced then.

    `usage` has passed `admit` (known units, sub-counts within their totals). Time: one dict look-up and
    one multiplication a line.
    """
    if rates.tiers is not None:
        rates = rates.tiers.of(usage)
    shape = tuple(usage)
    try:
        plan = rates.plans[shape]
    except KeyError:
        plan = _make_plan(shape, rates.rates)
        if len(rates.plans) < PLANS_MAX:
            rates.plans[shape] = plan
    if plan is None:
        return _charge_without_zeros(usage, rates)
    if plan.coefficients is not None:
        product = sum(map(mul, usage.values(), plan.coefficients))
        if type(product) is int:  # else one quantity is a fraction, and Decimal rounds as it likes
            return product
    amount = 0
    quantities = list(usage.values())
    for unit, parts, numerator, denominator in plan.lines:
        quantity = quantities[unit]
        for part in parts:
            quantity -= quantities[part]
        if denominator == 1 and type(quantity) is int:
            amount += quantity * numerator
        else:
            amount += _divided(quantity, numerator, denominator)
    return amount


def charge_lines(usage: Mapping[str, int | Decimal], rates: RateSet) -> tuple[ChargeLine, ...] | None:
    """The lines whose amounts sum to what `charge` gives, or None where `charge` gives None.

    Lines of quantity zero are left out. `usage` as for `charge`. For people, not for the hot path.
    """
    rates = rates.for_usage(usage)
    used = {unit: quantity for unit, quantity in usage.items() if quantity}
    plan = _make_plan(tuple(used), rates.rates)
    if plan is None:
        return None
    units, quantities = list(used), list(used.values())
    lines: list[ChargeLine] = []
    for place, parts, numerator, denominator in plan.lines:
        quantity = quantities[place] - sum(quantities[part] for part in parts)
        if quantity:
            rate = rates.rates[units[place]]
            amount = _divided(quantity, numerator, denominator)
            rounding = amount - Fraction(quantity) * Fraction(numerator, denominator)
            lines.append(
                ChargeLine(
                    units[place],
                    quantity,
                    numerator,
                    denominator,
                    rate.per,
                    rate.price_id,
                    amount,
                    rounding,
                    rate.percent_price_id,
                )
            )
    return tuple(lines)


def _divided(quantity: int | Decimal, numerator: int, denominator: int) -> int:
    """A fractional quantity, or a rate with more than 12 places."""
    if isinstance(quantity, Decimal):
        quantity = int(quantity.scaleb(QUANTITY_PLACES_MAX))
        denominator *= _SCALE
    return divide_half_even(quantity * numerator, denominator)


def _make_plan(shape: tuple[str, ...], rates: Mapping[str, Rate]) -> Plan | None:
    """None: some unit has no price, neither itself nor a total that includes it."""
    place = {unit: index for index, unit in enumerate(shape)}
    parts: dict[str, list[int]] = {unit: [] for unit in shape if unit in rates}
    for unit in shape:
        above = next((total for total in ancestors(unit) if total in rates), None)
        if unit not in rates:
            if above is None:
                return None
        elif above is not None:
            parts[above].append(place[unit])
    lines = tuple(
        Line(place[unit], tuple(inside), rates[unit].numerator, rates[unit].denominator)
        for unit, inside in parts.items()
    )
    return Plan(lines, _coefficients(len(shape), lines))


def _coefficients(units: int, lines: tuple[Line, ...]) -> tuple[int, ...] | None:
    coefficients = [0] * units
    for line in lines:
        if line.denominator != 1:
            return None
        coefficients[line.unit] += line.numerator
        for part in line.parts:
            coefficients[part] -= line.numerator
    return tuple(coefficients)


def _charge_without_zeros(usage: Mapping[str, int | Decimal], rates: RateSet) -> int | None:
    """A unit without a price does not matter while its quantity is zero."""
    used = {unit: quantity for unit, quantity in usage.items() if quantity}
    if len(used) == len(usage):
        return None
    return charge(used, rates)
