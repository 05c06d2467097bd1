"""Twilio's message: numbers are text, a price is a negative one, and both may be known only later."""

from __future__ import annotations

from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    Unreadable,
    canonical,
    count,
    name_of,
    need,
    reported,
)


def read(body: Json) -> Reading | None:
    """None: no message. A record of a day's usage is none: it sums up messages that are charged one by one."""
    if "num_segments" not in body:
        return None
    segments = need(body, "num_segments")
    if not segments:
        raise Unreadable("num_segments is 0: not known yet; send the message as it is once it has been sent")
    # A message with media has one price, however many segments.
    quantities: dict[str, Quantity | None] = {"segments": segments}
    if count(body, "num_media"):
        quantities = {"media_messages": 1}
    amount = reported(body, "price")
    currency = name_of(body, "price_unit").upper()
    if amount is not None and not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise Unreadable(f"price_unit, a text of {len(currency)} characters, is no ISO 4217 code")
    return Reading(canonical(quantities), reported_amount=amount, reported_currency="" if amount is None else currency)
