"""Where a row of the price book says so, what a vendor reports that it charged is billed, and not our own sum. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from meterstream.processors.rating.book import Book, Rate
from meterstream.schema.event import Event
from meterstream.schema.money import NO_CURRENCY, PICO, divide_half_even, format_amount, to_pico

BILLED_COST: Final = "billed_cost"
COMPUTED_AMOUNT: Final = "computed_amount"
COMPUTED_CURRENCY: Final = "computed_currency"
NOTES: Final = (BILLED_COST, COMPUTED_AMOUNT, COMPUTED_CURRENCY)
"""What the ledger's `attributes` say of an event that is billed as reported."""


class Bill(NamedTuple):
    """What is billed. `rate` is in pico for one unit of the currency."""

    amount_pico: int
    currency: str
    rate: Rate


def bill(event: Event, usage: Mapping[str, int | Decimal], book: Book) -> Bill | None:
    """The charge of an admitted event by the cost that its vendor reports; None: it is billed by its quantities.

    Never for an event without a reported cost, and never for one whose usage could not be read.
    """
    data = event.data
    if data.reported_amount is None or data.reported_currency == NO_CURRENCY or not usage:
        return None
    context = data.service_tier, data.region, data.tags
    rate = book.bills_reported(event.tenant, data.provider, data.model, event.time, *context, usage)
    return None if rate is None else Bill(of(data.reported_amount, rate), data.reported_currency, rate)


def of(reported_amount: str, rate: Rate) -> int:
    """Pico of the currency, rounded half to even; the amount has at most 12 places."""
    return divide_half_even(to_pico(Decimal(reported_amount)) * rate.numerator, PICO * rate.denominator)


def notes(computed_pico: int | None, currency: str) -> dict[str, str]:
    """What the row of such an event says beside its amount: what its quantities cost, where that is known."""
    said = {BILLED_COST: "reported"}
    if computed_pico is not None:
        said |= {COMPUTED_AMOUNT: format_amount(computed_pico), COMPUTED_CURRENCY: currency}
    return said
