"""The units that usage is counted in, and which unit is part of which.

Quantities are *inclusive totals*: `input_tokens` counts the cached ones too, and `cache_read_tokens`
says how many of them were read from a cache. A charge takes a priced sub-count out of its nearest
priced parent, so that each token is on exactly one line (see `processors/rating/price.py`).

Each unit has one parent, so the parts of a total never overlap: audio that was read from a cache is
counted by `cache_read_audio_tokens` (within `cache_read_tokens`) and not by `input_audio_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple


class Unit(NamedTuple):
    """`parent`: the unit whose total includes it. `is_whole`: no fraction of it exists."""

    parent: str | None = None
    is_whole: bool = True


_FRACTIONAL: Final = Unit(is_whole=False)

REGISTRY: Final[Mapping[str, Unit]] = {
    "requests": Unit(),
    # tokens read by a model
    "input_tokens": Unit(),
    "cache_read_tokens": Unit("input_tokens"),
    "cache_read_audio_tokens": Unit("cache_read_tokens"),
    "cache_read_image_tokens": Unit("cache_read_tokens"),
    "cache_read_video_tokens": Unit("cache_read_tokens"),
    "cache_write_tokens": Unit("input_tokens"),
    "cache_write_5m_tokens": Unit("cache_write_tokens"),
    "cache_write_1h_tokens": Unit("cache_write_tokens"),
    "input_audio_tokens": Unit("input_tokens"),
    "input_image_tokens": Unit("input_tokens"),
    "input_video_tokens": Unit("input_tokens"),
    "input_tool_tokens": Unit("input_tokens"),
    # tokens written by a model
    "output_tokens": Unit(),
    "reasoning_tokens": Unit("output_tokens"),
    "output_audio_tokens": Unit("output_tokens"),
    "output_image_tokens": Unit("output_tokens"),
    "output_video_tokens": Unit("output_tokens"),
    # tokens of a second model within one answer: no price of the first model holds for them
    "other_model_input_tokens": Unit(),
    "other_model_output_tokens": Unit(),
    # what is handed over
    "characters": Unit(),
    "seconds": _FRACTIONAL,
    "audio_seconds": _FRACTIONAL,
    "video_seconds": _FRACTIONAL,
    "images": Unit(),
    "pages": Unit(),
    "gigabytes": _FRACTIONAL,
    # what is done
    "web_requests": Unit(),
    "web_searches": Unit(),
    "file_searches": Unit(),
    "code_executions": Unit(),
    "search_units": _FRACTIONAL,
    "extra_results": Unit(),
    "summaries": Unit(),
    "classifications": Unit(),
    "segments": Unit(),
    "media_messages": Unit(),
    "credits": _FRACTIONAL,
    # what is kept: tokens times hours
    "token_hours": _FRACTIONAL,
}
"""Every unit. A name is part of the contract: it is never renamed."""

PARENTS: Final[Mapping[str, str | None]] = {name: unit.parent for name, unit in REGISTRY.items()}
"""unit -> the unit whose total includes it, or None."""

UNITS: Final = frozenset(REGISTRY)

WHOLE_UNITS: Final = frozenset(name for name, unit in REGISTRY.items() if unit.is_whole)

COLUMN_UNITS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
"""Units with a column of their own in ledger and rollups, in that order; the others are in `quantities`."""

SHAPES_MAX: Final = 256
"""Of usage, which are the units that an event gives, in its order: for how many something is remembered. Hostile orders
cost time, not memory."""

QUANTITY_MAX: Final = 10**12
"""No quantity of one event may be above this: nine million such events under one key still fit a rollup's 64 bits."""

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


@lru_cache(maxsize=SHAPES_MAX)
def _parts_by_total(units: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(total, those of the units that are parts of it). Raises KeyError for an unknown unit."""
    parts: dict[str, list[str]] = {}
    for unit in units:
        parent = PARENTS[unit]
        if parent is not None:
            parts.setdefault(parent, []).append(unit)
    return tuple((total, tuple(inside)) for total, inside in parts.items())


def misfit(usage: Mapping[str, int | Decimal]) -> str | None:
    """Where parts are above their total or stand without it, with the numbers; None where all fit.

    Raises KeyError (the unit) for an unknown unit.
    """
    for parent, parts in _parts_by_total(tuple(usage)):
        total = usage.get(parent)
        if total is None:
            return f"sub-counts of {parent} are given, but not {parent} itself"
        sum_of_parts: int | Decimal = 0
        for part in parts:
            sum_of_parts += usage[part]
        if sum_of_parts > total:
            return f"the sub-counts of {parent} sum to {sum_of_parts}, {parent} is {total}"
    return None
