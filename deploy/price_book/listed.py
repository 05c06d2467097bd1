"""What the pinned list says of one model, in the units and conditions of a price file. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal
from typing import Final

from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

SINCE_EVER: Final = date(2000, 1, 1)
"""The first day of a rate that the list gives without one."""

_DIGITS: Final = Context(prec=12)
"""More digits than these are what a float left behind, or a fraction such as 1/24."""

_UNITS: Final = {
    "input_mtok": ("input_tokens", 10**6),
    "cache_read_mtok": ("cache_read_tokens", 10**6),
    "cache_write_mtok": ("cache_write_tokens", 10**6),
    "cache_write_5m_mtok": ("cache_write_5m_tokens", 10**6),
    "cache_write_1h_mtok": ("cache_write_1h_tokens", 10**6),
    "cache_audio_read_mtok": ("cache_read_audio_tokens", 10**6),
    "cache_image_read_mtok": ("cache_read_image_tokens", 10**6),
    "cache_video_read_mtok": ("cache_read_video_tokens", 10**6),
    "input_audio_mtok": ("input_audio_tokens", 10**6),
    "input_image_mtok": ("input_image_tokens", 10**6),
    "input_video_mtok": ("input_video_tokens", 10**6),
    "input_tool_mtok": ("input_tool_tokens", 10**6),
    "output_mtok": ("output_tokens", 10**6),
    "output_reasoning_mtok": ("reasoning_tokens", 10**6),
    "output_audio_mtok": ("output_audio_tokens", 10**6),
    "output_image_mtok": ("output_image_tokens", 10**6),
    "output_video_mtok": ("output_video_tokens", 10**6),
    "input_mchars": ("characters", 10**6),
    "audio_hours": ("audio_seconds", 3600),
    "input_audio_hours": ("audio_seconds", 3600),
    "input_document_kpages": ("pages", 1000),
    "web_searches_kcount": ("web_searches", 1000),
    "storage_searches_kcount": ("file_searches", 1000),
    "code_executions_kcount": ("code_executions", 1000),
    "rerank_searches_kcount": ("search_units", 1000),
}
"""The list's keys -> (our unit, how many of it the rate is for)."""

_TEXT: Final = {
    "input_text_mtok": "input_mtok",
    "cache_text_read_mtok": "cache_read_mtok",
    "output_text_mtok": "output_mtok",
}
"""Text is what is left of a total: without a rate of the total, this is the total's rate."""

_APART: Final = frozenset({"input_annotated_document_kpages"})
"""Other quantities, which no body tells apart from those that are priced."""

_TIER_KEYS: Final = frozenset({"processing", "service_tier", "speed"})


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """For which calls a rate is: see `meterstream.schema.price_file`."""

    service_tier: str = ""
    above: int = 0


@dataclass(frozen=True, slots=True)
class Amount:
    """`rate` US dollars for `per` units, plain decimal text."""

    rate: str
    per: int


State = dict[tuple[Condition, str], Amount]
"""(condition, unit) -> what holds at one moment."""

Step = tuple[date, State]
"""What changes on a day; an amount of None is no longer there."""


class LeftOut(Exception):
    """Why a model cannot be shipped."""


def amount(price: Decimal, per: int) -> Amount:
    """Without the debris of floats."""
    return Amount(f"{_DIGITS.plus(price).normalize():f}", per)


def timeline(model: ModelInfo, *, with_tiers: bool = True) -> list[Step]:
    """What holds from each day on. Raises LeftOut."""
    segments = list(_segments(model))
    variants = list(_variants(model)) if with_tiers else []
    days = sorted({day for day, _ in segments} | {day for _, day, _ in variants})
    steps = [(day, _state(segments, variants, day)) for day in days]
    if not any(Decimal(amount.rate) for _, state in steps for amount in state.values()):
        if not model.id.endswith(":free"):
            raise LeftOut("it has no rate above zero")
        return [(SINCE_EVER, {(Condition(), unit): Amount("0", 10**6) for unit in ("input_tokens", "output_tokens")})]
    return steps


def _segments(model: ModelInfo) -> Iterator[tuple[date, ModelPrice]]:
    if isinstance(model.prices, ModelPrice):
        yield SINCE_EVER, model.prices
        return
    for place, conditional in enumerate(model.prices):
        if conditional.constraint is not None and not isinstance(conditional.constraint, StartDateConstraint):
            raise LeftOut("its price depends on the hour: the list cannot date that, write it by hand")
        first = place == 0 or conditional.constraint is None
        yield (
            SINCE_EVER if first or conditional.constraint is None else conditional.constraint.start_date,
            (conditional.prices),
        )


def _variants(model: ModelInfo) -> Iterator[tuple[str, date, ModelPrice]]:
    for variant in model.price_variants or ():
        (key, tier), *others = variant.when.items()
        if others or key not in _TIER_KEYS or tier == "default":
            continue
        if variant.constraint is None:
            yield tier, SINCE_EVER, variant.prices
        elif isinstance(variant.constraint, StartDateConstraint):
            yield tier, variant.constraint.start_date, variant.prices
        else:
            raise LeftOut("the price of a service tier depends on the hour")


def _state(segments: list[tuple[date, ModelPrice]], variants: list[tuple[str, date, ModelPrice]], day: date) -> State:
    state: State = {}
    standard = [price for start, price in segments if start <= day][-1]
    for unit, per, price in units_of(standard):
        state.update(_by_threshold("", unit, per, price))
    decided: set[tuple[str, str]] = set()
    for tier, start, prices in variants:
        if start > day:
            continue
        for unit, per, price in units_of(prices):
            if (tier, unit) not in decided:  # the first that holds
                decided.add((tier, unit))
                state.update(_by_threshold(tier, unit, per, price))
    return state


def units_of(prices: ModelPrice) -> Iterator[tuple[str, int, Decimal | TieredPrices]]:
    """(unit, per, price) of each. Raises LeftOut for a price that has no unit here."""
    given = {key: price for key, price in prices.__dict__.items() if price is not None and key not in _APART}
    for text, total in _TEXT.items():
        if text in given and given.setdefault(total, given[text]) == given[text]:
            del given[text]
    if "audio_hours" in given and given.get("input_audio_hours") == given["audio_hours"]:
        del given["input_audio_hours"]
    unknown = sorted(set(given) - set(_UNITS))
    if unknown:
        raise LeftOut(f"no unit for {', '.join(unknown)}")
    for key, (unit, per) in _UNITS.items():
        if key in given:
            yield unit, per, given[key]


def _by_threshold(tier: str, unit: str, per: int, price: Decimal | TieredPrices) -> State:
    if not isinstance(price, TieredPrices):
        return {(Condition(tier), unit): amount(price, per)}
    return {(Condition(tier), unit): amount(price.base, per)} | {
        (Condition(tier, above.start), unit): amount(above.price, per) for above in price.tiers
    }
