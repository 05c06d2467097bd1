"""Amounts: integers of 1e-12 of a currency unit ("pico") in process, NUMERIC(38,12) where people read."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Final

PICO_PLACES: Final = 12
PICO: Final = 10**PICO_PLACES

CHARGE_PICO_MAX: Final = 10**6 * PICO
"""One charge is at most a million units of currency; anything above is rejected, not believed."""

NO_CURRENCY: Final = "XXX"
"""ISO 4217 "no currency": the currency of an event that has no price yet."""

AMOUNT_PATTERN: Final = r"^-?[0-9]{1,26}(\.[0-9]{1,12})?$"
"""Of an amount as text in a record of ours; NUMERIC(38,12) holds it."""

# Wide enough for NUMERIC(38,12); the default context would round a sum of more than 28 digits.
_EXACT: Final = Context(prec=60)


def to_decimal(amount_pico: int) -> Decimal:
    """1_500_000_000_000 -> Decimal('1.500000000000'). Exact for every NUMERIC(38,12)."""
    return Decimal(amount_pico).scaleb(-PICO_PLACES, _EXACT)


def to_pico(amount: Decimal) -> int:
    """Decimal('1.5') -> 1_500_000_000_000. Raises ValueError when there are more than 12 places."""
    scaled = amount.scaleb(PICO_PLACES, _EXACT)
    pico = int(scaled)
    if pico != scaled:
        raise ValueError(f"{amount} has more than {PICO_PLACES} decimal places")
    return pico


def parse_amount(text: str) -> int:
    """'1.5' -> 1_500_000_000_000, exact: the reverse of `format_amount`. The text matches AMOUNT_PATTERN."""
    return to_pico(Decimal(text))


def divide_half_even(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded half to even; denominator > 0. The one rounding of a charge line."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient


def format_amount(amount_pico: int) -> str:
    """1_500_000_000_000 -> '1.5', -1 -> '-0.000000000001': plain decimal text without trailing zeros."""
    sign, digits = ("-", -amount_pico) if amount_pico < 0 else ("", amount_pico)
    whole, fraction = divmod(digits, PICO)
    tail = f"{fraction:0{PICO_PLACES}d}".rstrip("0")
    return f"{sign}{whole}.{tail}" if tail else f"{sign}{whole}"
