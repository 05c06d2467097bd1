"""Quantities as JSON text -> exact numbers, or why not. One judgement for publishers and the rater.

As text, because a float would round them: `1e-400` would be nothing, and be metered as that.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from meterstream.schema.errors import EventRejected
from meterstream.schema.names import is_name
from meterstream.schema.units import QUANTITY_MAX, QUANTITY_PLACES_MAX, WHOLE_UNITS

NUMBER_BYTES_MAX: Final = 64

_NUMBER: Final = re.compile(rb"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def parse_usage(value: bytes) -> dict[str, int | Decimal]:
    """JSON of unit -> quantity; an int where it is whole. Does not ask whether units exist. Raises EventRejected."""
    try:
        raw = _decode_object(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventRejected("invalid_quantity", "usage is not an object of unit -> quantity") from error
    return {unit: _parse_quantity(unit, bytes(text).strip()) for unit, text in raw.items()}


def _parse_quantity(unit: str, text: bytes) -> int | Decimal:
    if not _NUMBER.fullmatch(text) or len(text) > NUMBER_BYTES_MAX:
        raise _invalid(unit, text, "a quantity is a JSON number of at most 64 digits", is_number=False)
    try:
        quantity = Decimal(text.decode("ascii"))
    except InvalidOperation as error:  # an exponent of 19 digits or more
        raise _invalid(unit, text, "its exponent is beyond any quantity") from error
    if quantity.is_signed() and quantity != 0:
        raise _invalid(unit, text, "a quantity is never negative")
    if quantity > QUANTITY_MAX:
        raise _invalid(unit, text, f"the bound is {QUANTITY_MAX}")
    # Above the bound is refused before, so neither power of ten below can be large.
    if quantity != 0 and quantity.adjusted() < -QUANTITY_PLACES_MAX:
        raise _invalid(unit, text, f"at most {QUANTITY_PLACES_MAX} decimal places")
    whole = int(quantity)
    if quantity == whole:
        return whole
    if quantity != round(quantity, QUANTITY_PLACES_MAX):
        raise _invalid(unit, text, f"at most {QUANTITY_PLACES_MAX} decimal places")
    if unit in WHOLE_UNITS:
        raise _invalid(unit, text, "it is counted in whole numbers")
    return quantity.normalize()


def _invalid(unit: str, text: bytes, why: str, *, is_number: bool = True) -> EventRejected:
    shown = text[:40].decode("utf-8", "replace")
    private = f"{unit if is_name(unit) else 'a member of usage'} is {shown if is_number else 'no number'}; {why}"
    return EventRejected("invalid_quantity", f"{unit} is {shown}; {why}", private)
