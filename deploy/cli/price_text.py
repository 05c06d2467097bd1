"""Prices and charges as text and as JSON, the same in every command that shows them."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from meterstream.deploy.cli.text import utc
from meterstream.schema.catalog import BILLED, CONDITIONS, DEFAULT_CONDITIONS, REPORTED_COST
from meterstream.schema.money import format_amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterstream.processors.rating.explain import ExplainedLine, Explanation, Usage
    from meterstream.schema.catalog import Price
    from meterstream.schema.price_line import PriceLine

_OF_THE_DATABASE: Final = ("price_id", "revision", "known_from")
"""What a price of a file does not have."""


def terms_text(price: PriceLine | Price) -> str:
    """What a price says, for people: `2.5 USD / 1,000,000`, `-10 %`, or `withdrawn`."""
    if price.withdrawn:
        return "withdrawn"
    if (bill := billed(price)) is not None:
        return f"bill the {bill} cost"
    return f"{price.rate} {price.currency} / {price.per:,}" if price.percent is None else f"{price.percent} %"


def billed(price: PriceLine | Price) -> str | None:
    """Of a row that says which cost is billed: `reported` or `computed`; None: it is a rate or a percent."""
    if price.unit != REPORTED_COST or price.percent is not None or price.withdrawn:
        return None
    return next(name for name, rate in BILLED.items() if rate == price.rate)


def price_json(row: Price) -> dict[str, object]:
    """A price row for programs."""
    return {
        "price_id": row.price_id,
        "revision": row.revision,
        "tenant": row.tenant,
        "provider": row.provider,
        "model": row.model,
        "unit": row.unit,
        "rate": None if row.withdrawn or row.percent is not None or row.unit == REPORTED_COST else row.rate,
        "per": row.per,
        "currency": row.currency,
        "valid_from": utc(row.valid_from),
        "known_from": utc(row.known_from),
        "withdrawn": row.withdrawn,
        "source": row.source,
        "checked_on": row.checked_on and row.checked_on.isoformat(),
        **_conditions(row),
    }


def _conditions(row: Price) -> dict[str, object]:
    """Those that the row states, and its percent: a price for every call has none of these."""
    stated = {name: getattr(row, name) for name in CONDITIONS if getattr(row, name) != DEFAULT_CONDITIONS[name]}
    if row.above:
        stated["above_unit"] = row.above_unit
    if (bill := billed(row)) is not None:
        stated["bill"] = bill
    return stated if row.percent is None else stated | {"percent": row.percent}


def usage_json(usage: Usage) -> dict[str, int | str]:
    """Integers as numbers, fractions as decimal text: no reader takes them for floats."""
    return {unit: _quantity(quantity) for unit, quantity in usage.items()}


def charge_json(explanation: Explanation, *, is_stored: bool) -> dict[str, object]:
    """Currency, amount and lines. `is_stored`: the prices are those of the database, with ids and revisions."""
    amount_pico = explanation.amount_pico
    charge: dict[str, object] = {
        "currency": explanation.currency,
        "amount": None if amount_pico is None else format_amount(amount_pico),
        "lines": [_line_json(line, is_stored=is_stored) for line in explanation.lines],
    }
    if amount_pico is None:
        charge["lacking"] = list(explanation.lacking)
    if explanation.computed is not None:
        computed_pico = explanation.computed.amount_pico
        charge["billed"] = "reported"
        charge["computed_amount"] = None if computed_pico is None else format_amount(computed_pico)
        charge["computed_currency"] = explanation.computed.currency
    return charge


def _line_json(line: ExplainedLine, *, is_stored: bool) -> dict[str, object]:
    shown: dict[str, object] = {
        "unit": line.unit,
        "quantity": _quantity(line.quantity),
        "rate": plain(line.rate),
        "per": line.per,
        "amount": format_amount(line.amount_pico),
        "rounding": exact_text(line.rounding),
        "price": row_json(line.price, is_stored=is_stored),
    }
    return shown if line.percent is None else shown | {"percent": row_json(line.percent, is_stored=is_stored)}


def row_json(row: Price, *, is_stored: bool) -> dict[str, object]:
    """A price row for programs; `is_stored` as above."""
    price = price_json(row)
    return price if is_stored else {name: price[name] for name in price if name not in _OF_THE_DATABASE}


def charge_lines(explanation: Explanation) -> Iterator[str]:
    """The lines for people, below each other."""
    counts = [format(line.quantity, ",f" if isinstance(line.quantity, Decimal) else ",") for line in explanation.lines]
    width = max(map(len, counts), default=0)
    units = max((len(line.unit) for line in explanation.lines), default=0)
    for count, line in zip(counts, explanation.lines, strict=True):
        amount = format_amount(line.amount_pico)
        yield f"{count:>{width}}  {line.unit:<{units}}  at {plain(line.rate)} / {line.per:,} = {amount}"
    if explanation.computed is not None:
        yield f"billed as the vendor reports; its quantities: {amount_text(explanation.computed)}"


def amount_text(explanation: Explanation) -> str:
    """`0.5 USD`, or what has no price."""
    if explanation.amount_pico is None:
        return f"no price for {', '.join(explanation.lacking)}"
    return f"{format_amount(explanation.amount_pico)} {explanation.currency}"


def plain(number: int | Decimal) -> str:
    """A number as plain decimal text without needless zeros."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def exact_text(number: Fraction) -> str:
    """Decimal text where that ends, else `numerator/denominator`."""
    places, rest = 0, number.denominator
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        places = max(places, count)
    if rest != 1:
        return str(number)
    scaled = number * 10**places
    digits = f"{abs(scaled.numerator):0{places + 1}d}"
    sign = "-" if number < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _quantity(quantity: int | Decimal) -> int | str:
    return plain(quantity) if isinstance(quantity, Decimal) else quantity
