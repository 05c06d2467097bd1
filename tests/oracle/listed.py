"""The shipped prices beside genai-prices, which computes by itself: same calls, same moments, two amounts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import yaml
from genai_prices import Usage, data
from genai_prices.types import ModelInfo, Provider

from meterstream.deploy.price_book.build import CHECKED_ON, PROVIDERS
from meterstream.deploy.price_book.second import book_of
from meterstream.processors.rating.book import Book, RateSet
from meterstream.processors.rating.price import charge
from meterstream.schema import price_file
from meterstream.schema.price_line import PriceLine

NOW: Final = datetime.combine(CHECKED_ON, time(12), UTC)

TIERS: Final[dict[str, dict[str, str]]] = {
    "": {},
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}
"""Our service tier -> how the list is asked for it."""

_LISTED_IDS: Final = {ours: theirs for theirs, ours in PROVIDERS.items()} | {"deepseek": "deepseek"}

NOT_LISTED: Final = frozenset({"exa", "twilio"})
"""Providers of which the list has nothing: their files are from their own pages."""

_THEIR_NAMES: Final = {
    "cache_read_audio_tokens": "cache_audio_read_tokens",
    "cache_read_image_tokens": "cache_image_read_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
    "characters": "input_characters",
    "pages": "input_document_pages",
    "file_searches": "storage_searches",
    "search_units": "rerank_searches",
}

Quantities = dict[str, int | Decimal]

_MIXES: Final[tuple[Quantities, ...]] = (
    {"input_tokens": 1_000, "output_tokens": 500},
    {"input_tokens": 90_000, "cache_read_tokens": 30_001, "cache_write_tokens": 20_003, "output_tokens": 7},
    {
        "input_tokens": 9_000,
        "cache_read_tokens": 1,
        "cache_write_tokens": 5_000,
        "cache_write_1h_tokens": 4_999,
        "output_tokens": 0,
    },
    {
        "input_tokens": 50_000,
        "input_audio_tokens": 30_000,
        "cache_read_tokens": 9_000,
        "cache_read_audio_tokens": 8_000,
        "output_tokens": 40_000,
        "output_audio_tokens": 39_000,
    },
    {
        "input_tokens": 5_000,
        "input_image_tokens": 3_000,
        "output_tokens": 4_000,
        "reasoning_tokens": 1_000,
        "output_image_tokens": 3_000,
    },
    {
        "characters": 12_345,
        "audio_seconds": Decimal("61.5"),
        "pages": 7,
        "web_searches": 3,
        "file_searches": 2,
        "code_executions": 5,
        "search_units": 11,
    },
)

_LONG: Final = {"cache_read_tokens": 10_000, "output_tokens": 3_000}


class Case(NamedTuple):
    """One call, for which the two disagree or do not."""

    provider: str
    model: str
    moment: datetime
    service_tier: str
    usage: Quantities
    ours: Fraction | None
    theirs: Fraction

    @property
    def is_equal(self) -> bool:
        """To half of 1e-12 for each charge line, which is what each is rounded by."""
        return self.ours is not None and abs(self.ours - self.theirs) <= Fraction(len(self.usage), 2 * 10**12)


@cache
def providers() -> dict[str, Provider]:
    """The list's providers by their own ids."""
    return {provider.id: provider for provider in data.providers}


@cache
def shipped() -> tuple[Sequence[PriceLine], Book]:
    """The lines, and the book in which the id of a price is its place among them, from 1."""
    lines = price_file.shipped()
    return lines, book_of(lines)


def names() -> Iterator[tuple[str, str]]:
    """(provider, model) of every shipped name; for a prefix or a pattern one that it stands for."""
    seen = set()
    for line in shipped()[0]:
        if line.provider not in _LISTED_IDS:
            continue
        key = (line.provider, line.match, line.model)
        if key not in seen:
            seen.add(key)
            if line.match == "prefix":
                yield line.provider, f"{line.model}-x"
            is_pattern = line.match == "pattern"
            yield line.provider, line.model.replace("[0-9]", "0").replace("*", "1") if is_pattern else line.model


def found(provider: str, model: str) -> tuple[Provider, ModelInfo] | None:
    """What the list has for a name, as it finds it."""
    listed = providers()[_LISTED_IDS[provider]]
    model_info = listed.find_model(model, all_providers=data.providers)
    return None if model_info is None else (listed, model_info)


@cache
def _by_name() -> dict[tuple[str, str], list[PriceLine]]:
    lines: dict[tuple[str, str], list[PriceLine]] = defaultdict(list)
    for line in shipped()[0]:
        lines[line.provider, line.model].append(line)
    return lines


def moments(provider: str, model: str) -> list[datetime]:
    """Now, and the last second before and the first of every dated change of a name."""
    lines = _by_name()[provider, model]
    days = {line.valid_from for line in lines if line.valid_from.year > 2000}
    return sorted({NOW} | days | {day - timedelta(seconds=1) for day in days})


def cases(
    provider: str, model: str, moments: Iterable[datetime], tiers: Iterable[str], *, at_thresholds: bool
) -> Iterator[Case]:
    """Each mix of usage at each moment in each tier, as far as both know its units."""
    listed = found(provider, model)
    if listed is None:
        return
    _, book = shipped()
    lines = _by_name()[provider, model] if at_thresholds else ()
    sizes = {line.above for line in lines if line.above and line.above_unit == "input_tokens"}
    long: list[Quantities] = [{"input_tokens": at, **_LONG} for size in sorted(sizes) for at in (size, size + 1)]
    for moment in moments:
        for tier in tiers:
            rates = book.lookup("", provider, model, moment, tier)
            if rates is None and TIERS[tier]:
                continue  # unpriced here; the list falls back to the standard tier
            done: list[Quantities] = []
            for mix in (*_MIXES, *long):
                usage = _known(mix, rates)
                if usage and usage not in done:
                    done.append(usage)
                    yield _case(provider, model, moment, tier, usage, rates, *listed)


def _known(mix: Quantities, rates: RateSet | None) -> Quantities:
    units = {"input_tokens", "output_tokens"} if rates is None else set(rates.rates)
    return {unit: quantity for unit, quantity in mix.items() if unit in units}


def _case(
    provider: str,
    model: str,
    moment: datetime,
    tier: str,
    usage: Quantities,
    rates: RateSet | None,
    listed: Provider,
    listed_model: ModelInfo,
) -> Case:
    pico = None if rates is None else charge(usage, rates)
    calculation = listed_model.calc_price(
        Usage(**_their_words(usage)), listed, genai_request_timestamp=moment, price_context=TIERS[tier] or None
    )
    return Case(
        provider,
        model,
        moment,
        tier,
        usage,
        None if pico is None else Fraction(pico, 10**12),
        Fraction(calculation.total_price),
    )


def _their_words(usage: Quantities) -> dict[str, int | Decimal]:
    """Their parts overlap: cached audio is audio too."""
    words = {_THEIR_NAMES.get(unit, unit): quantity for unit, quantity in usage.items()}
    if "input_audio_tokens" in usage:
        words["input_audio_tokens"] = usage["input_audio_tokens"] + usage.get("cache_read_audio_tokens", 0)
        words.setdefault("cache_audio_read_tokens", 0)
    if "audio_seconds" in usage:
        words["input_audio_seconds"] = usage["audio_seconds"]
    return words


class Reviewed(NamedTuple):
    """Calls of a model for which the two may disagree."""

    provider: str
    model: str
    before: datetime | None
    reason: str

    def covers(self, case: Case) -> bool:
        """Whether this is such a call."""
        is_before = self.before is None or case.moment < self.before
        return (self.provider, self.model) == (case.provider, case.model) and is_before


@cache
def reviewed() -> tuple[Reviewed, ...]:
    """What a person has looked at."""
    groups = yaml.safe_load((Path(__file__).parents[1] / "data" / "price_oracle.yaml").read_text("utf-8"))
    return tuple(
        Reviewed(
            entry["provider"],
            name,
            datetime.combine(entry["before"], time(), UTC) if "before" in entry else None,
            group["reason"],
        )
        for group in groups
        for entry in group["models"]
        for name in entry["names"]
    )


def is_before_the_first_price(case: Case) -> bool:
    """Ours names a first day of this name, and it was not there yet: the list has no first days."""
    exact = [line.valid_from for line in _by_name()[case.provider, case.model] if line.match == "exact"]
    return bool(exact) and case.moment < min(exact)
