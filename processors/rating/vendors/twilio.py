"""Twilio's message: numbers are text, a price is a negative one, and both may be known only later."""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    Unreadable,
    canonical,
    count,
    debit,
    name_of,
    need,
)

_FREE_ERRORS: Final = frozenset({
    *(12400, 20500, 20504, 30103, 30500, 63010, 63012), 30036, *(30002, 30454, 63038, 90010), 30450, 21408,
    *(63013, 63018, 63021, 63024, 63032), 30008,
})  # fmt: skip
"""Failures for which Twilio takes no fee (its article "Failed Message Processing Fees", in force since 2024-09-30)."""


def read(body: Json) -> Reading | None:
    """None: no message. A record of a day's usage is none: it sums up messages that are charged one by one."""
    if "num_segments" not in body:
        return None
    quantities, service_tier = _sent(body)
    amount = debit(body, "price")
    currency = name_of(body, "price_unit").upper()
    if amount is not None and not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise Unreadable(f"price_unit, a text of {len(currency)} characters, is no ISO 4217 code")
    return Reading(
        canonical(quantities),
        service_tier=service_tier,
        reported_amount=amount,
        reported_currency="" if amount is None else currency,
    )


def _sent(body: Json) -> tuple[dict[str, Quantity | None], str]:
    """(what is paid, service tier), the latter where a unit has another price than for what was sent."""
    segments, status = need(body, "num_segments"), name_of(body, "status")
    if status == "failed":  # it never left: a fee by the message
        return {"requests": 1}, "failed-free" if count(body, "error_code") in _FREE_ERRORS else "failed"
    if status == "canceled":
        raise Unreadable("the message was canceled: nothing was sent, and nothing is charged")
    if not segments:
        raise Unreadable("num_segments is 0: not known yet; send the message as it is once it has been sent")
    if count(body, "num_media"):  # one price, however many segments
        return {"media_messages": 1}, "inbound" if name_of(body, "direction") == "inbound" else ""
    return {"segments": segments}, ""
