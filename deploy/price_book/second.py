"""A second opinion: the shipped prices beside LiteLLM's map, each difference for a person to accept or to mend.

The map is kept here, cut down to the rates of our providers: `python -m meterstream.deploy.price_book cut FILE`
makes the cut of another release.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from genai_prices import data

from meterstream.deploy.price_book.build import CHECKED_ON, PROVIDERS, providers
from meterstream.processors.rating.book import Book, Rate, RateSet
from meterstream.processors.rating.price import charge
from meterstream.schema.catalog import Price
from meterstream.schema.money import PICO
from meterstream.schema.price_line import PriceLine
from meterstream.schema.units import ancestors

VERSION: Final = "1.109.1"
"""The release of LiteLLM that the cut is of."""

CUT: Final = Path(__file__).with_name(f"litellm-{VERSION}.json.gz")
ACCEPTED: Final = Path(__file__).with_name("accepted.yaml")
UNPRICED: Final = Path(__file__).with_name("unpriced.yaml")

_TOLERANCE: Final = Fraction(1, 1000)

_PROVIDERS: Final = {
    "anthropic": ("anthropic", ""),
    "azure": ("azure", "azure/"),
    "bedrock": ("aws", ""),
    "bedrock_converse": ("aws", ""),
    "cohere": ("cohere", ""),
    "cohere_chat": ("cohere", ""),
    "deepseek": ("deepseek", "deepseek/"),
    "gemini": ("google", "gemini/"),
    "groq": ("groq", "groq/"),
    "mistral": ("mistral", "mistral/"),
    "openai": ("openai", ""),
    "openrouter": ("openrouter", "openrouter/"),
    "xai": ("xai", "xai/"),
}
"""Its provider -> ours, and what its names begin with."""

_UNITS: Final = {
    "input_cost_per_token": "input_tokens",
    "output_cost_per_token": "output_tokens",
    "cache_read_input_token_cost": "cache_read_tokens",
    "cache_creation_input_token_cost": "cache_write_tokens",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_tokens",
    "input_cost_per_audio_token": "input_audio_tokens",
    "output_cost_per_audio_token": "output_audio_tokens",
}
_TOTALS: Final = frozenset({"input_tokens", "output_tokens"})
_ROUTE: Final = re.compile(r"bedrock/([a-z0-9-]+/)?")
"""LiteLLM's own words in front of a Bedrock id: by which region or call it is reached."""

_TIERS: Final = {"": "", "_batches": "batch", "_flex": "flex", "_priority": "priority"}
_ABOVE: Final = {"": 0} | {f"_above_{size}k_tokens": size * 1000 for size in (100, 128, 200, 256, 272, 512)}


class Field(NamedTuple):
    """What one field of the map is a rate for."""

    unit: str
    service_tier: str
    above: int


FIELDS: Final = {
    f"{name}{above}{tier}": Field(unit, service_tier, size)
    for name, unit in _UNITS.items()
    for above, size in _ABOVE.items()
    for tier, service_tier in _TIERS.items()
}


class Difference(NamedTuple):
    """US dollars for one unit, here and there."""

    provider: str
    model: str
    field: Field
    ours: Fraction
    theirs: Fraction

    def __str__(self) -> str:
        where = self.field.service_tier + (f" above {self.field.above}" if self.field.above else "")
        what = f"{self.provider} {self.model} {self.field.unit}{f' ({where.strip()})' if where else ''}"
        return f"{what}: {_million(self.ours)} here, {_million(self.theirs)} there"


def book_of(lines: Sequence[PriceLine]) -> Book:
    """The book of these lines alone; the id of a price is its place, from 1."""
    known_from = datetime(2026, 1, 1, tzinfo=UTC)
    fields = set(PriceLine.__slots__) & set(Price.__struct_fields__)
    return Book(
        (
            Price(price_id=place, revision=1, known_from=known_from, **{name: getattr(line, name) for name in fields})
            for place, line in enumerate(lines, 1)
        ),
        1,
    )


def cut(text: str) -> bytes:
    """LiteLLM's map -> what is kept of it, compressed. The same input gives the same bytes."""
    kept: dict[str, dict[str, str]] = {}
    for key, entry in json.loads(text, parse_float=Decimal, parse_int=Decimal).items():
        rates = {name: f"{entry[name]:f}" for name in FIELDS if isinstance(entry.get(name), Decimal)}
        if entry.get("litellm_provider") in _PROVIDERS and rates:
            kept[key] = {"litellm_provider": entry["litellm_provider"], **rates}
    return gzip.compress(json.dumps(kept, indent=0, sort_keys=True).encode(), mtime=0)


def differences(lines: Sequence[PriceLine], entries: Mapping[str, Mapping[str, str]]) -> Iterator[Difference]:
    """Every rate of theirs for what is priced here, where they are more than 0.1 % apart, at noon of that day.

    Ours is what a call is charged: of a unit without a rate of its own that of its total. A service tier is compared
    where `lines` have rates of it; elsewhere its calls are unpriced here.
    """
    book = book_of(lines)
    noon = datetime.combine(CHECKED_ON, time(12), UTC)
    for key, entry in sorted(entries.items()):
        provider, beginning = _PROVIDERS[entry["litellm_provider"]]
        if not key.startswith(beginning):
            continue
        model = key.removeprefix(beginning)
        for name, text in entry.items():
            field = FIELDS.get(name)
            if field is None:
                continue
            rates = book.lookup("", provider, model, noon, field.service_tier)
            rate = None if rates is None else _rate(rates, field)
            if rate is None or lines[rate.price_id - 1].service_tier != field.service_tier:
                continue
            ours, theirs = Fraction(rate.numerator, rate.denominator * PICO), Fraction(text)
            if abs(ours - theirs) > _TOLERANCE * max(ours, theirs):
                yield Difference(provider, model, field, ours, theirs)


def entries() -> dict[str, dict[str, str]]:
    """The cut. Blocks for the read."""
    found: dict[str, dict[str, str]] = json.loads(gzip.decompress(CUT.read_bytes()))
    return found


def accepted() -> dict[str, str]:
    """Each accepted difference, as text -> the reason. Blocks for the read."""
    groups: list[dict[str, Any]] = yaml.safe_load(ACCEPTED.read_text("utf-8"))
    return {difference: group["reason"] for group in groups for difference in group["differences"]}


def accepted_unpriced() -> dict[str, str]:
    """'provider model' of what both lists price and we do not -> the reason. Blocks for the read."""
    groups: list[dict[str, Any]] = yaml.safe_load(UNPRICED.read_text("utf-8"))
    return {f"{group['provider']} {name}": group["reason"] for group in groups for name in group["models"]}


def unpriced(lines: Sequence[PriceLine], entries: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """'provider model' of each entry that the pinned list prices too, and of which tokens have no price here."""
    book = book_of(lines)
    listed = {ours: theirs for theirs, ours in PROVIDERS.items()} | {"deepseek": "deepseek"}
    by_id = providers()
    noon = datetime.combine(CHECKED_ON, time(12), UTC)
    found: set[str] = set()
    for key, entry in entries.items():
        provider, beginning = _PROVIDERS[entry["litellm_provider"]]
        model = _ROUTE.sub("", key.removeprefix(beginning))
        if by_id[listed[provider]].find_model(model, all_providers=data.providers) is None:
            continue
        costs = [unit for name, unit in _UNITS.items() if unit in _TOTALS and Fraction(entry.get(name, "0"))]
        rates = book.lookup("", provider, model, noon)
        if rates is None or charge(dict.fromkeys(costs, 1), rates) is None:
            found.add(f"{provider} {model}")
    return iter(sorted(found))


def judged(found: Iterable[object], accepted: Iterable[str]) -> tuple[list[str], list[str]]:
    """(those that nobody accepted, accepted ones that are no more)."""
    said, known = {str(difference) for difference in found}, set(accepted)
    return sorted(said - known), sorted(known - said)


def _rate(rates: RateSet, field: Field) -> Rate | None:
    """That by which the unit is charged: its own, or its nearest total's."""
    found = rates.for_usage({"input_tokens": field.above + 1} if field.above else {}).rates
    return next((found[unit] for unit in (field.unit, *ancestors(field.unit)) if unit in found), None)


def _million(rate: Fraction) -> str:
    return f"{float(rate * 10**6):.10g}"
