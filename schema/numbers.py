"""Numbers as people type them. Python alone reads more than anybody means: `" 5"`, `"1_0"`, `"٣"`."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Final

SHOWN_MAX: Final = 40

_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_WHOLE: Final = re.compile(r"-?[0-9]+")


def plain_decimal(text: str) -> Decimal:
    """'0.25' -> Decimal('0.25'), exact. Raises ValueError with the reason and the fix."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(no_number(text, "decimal number", "write it as 500 or 0.25"))
    return Decimal(text)


def plain_whole(text: str) -> int:
    """'80' -> 80. Raises ValueError with the reason and the fix."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(no_number(text, "whole number", "write it as 80"))
    return int(text)


def no_number(text: str, kind: str, fix: str) -> str:
    """Why `text` is no `kind`: what cannot be seen in it, where it has that, else only the fix."""
    foreign = next((character for character in text if character.isdecimal() and not character.isascii()), None)
    if text != text.strip():
        fix = "it begins or ends with a blank, remove it"
    elif foreign is not None:
        fix = f"{unicodedata.name(foreign)} is a digit of another script, write 0 to 9"
    return f"{text[:SHOWN_MAX]!r} is no {kind}: {fix}"
