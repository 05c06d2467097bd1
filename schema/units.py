"""The units that usage is counted in, and which unit is part of which.

Quantities are *inclusive totals*: `input_tokens` counts the cached ones too, and `cache_read_tokens`
says how many of them were read from a cache. A charge takes a priced sub-count out of its nearest
priced parent, so that each token is on exactly one line (see `processors/rating/price.py`).
"""

from __future__ import annotations

from typing import Final

PARENTS: Final[dict[str, str | None]] = {
    "requests": None,
    "input_tokens": None,
    "cache_read_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "cache_write_5m_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_tokens",
    "input_audio_tokens": "input_tokens",
    "input_image_tokens": "input_tokens",
    "output_tokens": None,
    "reasoning_tokens": "output_tokens",
    "output_audio_tokens": "output_tokens",
    "output_image_tokens": "output_tokens",
    "characters": None,
    "audio_seconds": None,
    "images": None,
    "pages": None,
    "web_searches": None,
    "search_units": None,
    "segments": None,
    "credits": None,
}
"""unit -> the unit whose total includes it, or None."""

UNITS: Final = frozenset(PARENTS)

COLUMN_UNITS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
"""Units with a column of their own in ledger and rollups, in that order; the others are in `quantities`."""

QUANTITY_MAX: Final = 10**15
"""No quantity of one event may be above this."""

QUANTITY_PLACES_MAX: Final = 9
"""A fractional quantity (seconds, credits) has at most this many decimal places."""


def ancestors(unit: str) -> tuple[str, ...]:
    """The units whose totals include `unit`, nearest first. Raises KeyError for an unknown unit."""
    chain: list[str] = []
    parent = PARENTS[unit]
    while parent is not None:
        chain.append(parent)
        parent = PARENTS[parent]
    return tuple(chain)
