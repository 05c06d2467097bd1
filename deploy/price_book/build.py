"""The pinned list and the prices that people keep -> the generated price files. Pure but for reading those.

People keep `<provider>.yaml`: past rates, first days, names. From the list comes `<provider>.listed.yaml`: every
model that they do not name, and of those that they name the rates for some calls only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Final

from genai_prices import data
from genai_prices.types import ModelInfo, Provider

from meterstream.deploy.price_book.listed import Amount, Condition, LeftOut, Step, timeline
from meterstream.deploy.price_book.names import Name, Untranslatable, names_of
from meterstream.schema.price_line import PriceLine, condition_text
from meterstream.schema.units import ancestors

CHECKED_ON: Final = date(2026, 11, 21)
"""The day on which the list and the prices that people keep were compared."""

PROVIDERS: Final = {
    "anthropic": "anthropic",
    "aws": "aws",
    "azure": "azure",
    "cohere": "cohere",
    "google": "google",
    "groq": "groq",
    "mistral": "mistral",
    "openai": "openai",
    "openrouter": "openrouter",
    "x-ai": "xai",
}
"""The list's provider -> ours. DeepSeek is kept by hand: the list cannot say on which days its hours began."""

_SOLD_BY_OTHERS: Final = {"azure": ("openai",)}
"""Whose models a provider sells at their maker's rates for all calls."""

Changes = dict[tuple[date, Condition], dict[str, Amount | None]]
"""What changes on a day, by unit; None: it is no longer there."""


@dataclass
class Built:
    """The models of one provider with what changes when, and what was left out and why."""

    provider: str
    page: str
    models: list[tuple[list[Name], Changes]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def providers() -> dict[str, Provider]:
    """Of the pinned list, by its own ids."""
    return {provider.id: provider for provider in data.providers}


def build(kept: Iterable[PriceLine]) -> list[Built]:
    """One for each of PROVIDERS. `kept`: the prices that people keep."""
    by_model: dict[tuple[str, str], list[PriceLine]] = defaultdict(list)
    for line in kept:
        by_model[line.provider, line.model].append(line)
    listed = providers()
    return [_provider(listed, listed_id, name, by_model) for listed_id, name in PROVIDERS.items()]


def _provider(
    listed: dict[str, Provider], listed_id: str, name: str, kept: dict[tuple[str, str], list[PriceLine]]
) -> Built:
    provider = listed[listed_id]
    built = Built(name, (provider.pricing_urls or [""])[0])
    taken: set[Name] = {
        (line.match, line.model)
        for (owner, _), lines in kept.items()
        for line in lines
        if owner == name and not condition_text(line, with_match=False)
    }
    for model in provider.models:
        _add(built, provider, model, taken, with_tiers=True)
    for seller in _SOLD_BY_OTHERS.get(listed_id, ()):
        for model in listed[seller].models:
            _add(built, listed[seller], model, taken, with_tiers=False)
    for (owner, model_name), lines in sorted(kept.items()):
        found = provider.find_model(model_name) if owner == name else None
        if found is None:
            continue
        try:
            changes = _beside(built, model_name, timeline(found), lines)
        except LeftOut as reason:
            built.left_out.append(f"{model_name}: {reason}")
            continue
        if changes:
            built.models.append(([("exact", model_name)], changes))
    return built


def _add(built: Built, provider: Provider, model: ModelInfo, taken: set[Name], *, with_tiers: bool) -> None:
    try:
        names = [name for name in names_of(provider.id, model.match) if name not in taken]
        if names:
            built.models.append((names, _changes(timeline(model, with_tiers=with_tiers))))
            taken.update(names)
    except (LeftOut, Untranslatable) as reason:
        built.left_out.append(f"{model.id}: {reason}")


def _changes(steps: list[Step]) -> Changes:
    changes: Changes = {}
    before: dict[tuple[Condition, str], Amount] = {}
    for day, state in steps:
        for key in {**before, **state}:
            if state.get(key) != before.get(key):
                changes.setdefault((day, key[0]), {})[key[1]] = state.get(key)
        before = state
    return changes


def _beside(built: Built, model: str, steps: list[Step], kept: list[PriceLine]) -> Changes:
    """What the list says beyond the kept rates of a model: for some calls only, and of units without a kept rate."""
    plain = [line for line in kept if line.is_plain]
    if not plain:
        return {}
    conditional = {_kind(line) for line in kept if not line.is_plain}
    for unit in ("input_tokens", "output_tokens"):
        amount = _at(steps, CHECKED_ON).get((Condition(), unit))
        if amount is not None and not _same(_in_force(plain, unit, CHECKED_ON), amount):
            return {}  # the list has other prices of it today, so what it says of tiers does not fit
    first = min(line.valid_from for line in plain).date()
    kept_units = {line.unit for line in plain}
    changes: Changes = {}
    for condition, unit in sorted({key for _, state in steps for key in state}):
        is_kept = unit in kept_units if condition == Condition() else _kind(condition) in conditional
        if is_kept:
            continue
        for start, end, amount, base in _runs(steps, condition, unit):
            begins = max(start, first)
            if not condition.service_tier:
                look = min(CHECKED_ON, end - timedelta(days=1)) if end else max(CHECKED_ON, start)
                total = unit if condition.above else _nearest(unit, kept_units)
                owner = _in_force(plain, total, look)
                if owner is None or (condition.above and not _same(owner, base)):
                    built.left_out.append(f"{model}: {unit} above {condition.above} from {start}: no kept rate fits")
                    continue
                begins = max(start, _agreeing_since(steps, plain, total, owner))
            changes.setdefault((begins, condition), {})[unit] = amount
            if end is not None and _at(steps, end).get((condition, unit)) is None:
                changes.setdefault((end, condition), {})[unit] = None
    return changes


def _agreeing_since(steps: list[Step], plain: list[PriceLine], unit: str, owner: PriceLine) -> date:
    """The first day from which on, up to `owner`, the list has every kept rate of a unit: before, it knows of none."""
    since = owner.valid_from.date()
    for line in sorted((line for line in plain if line.unit == unit), key=lambda line: line.valid_from, reverse=True):
        day = line.valid_from.date()
        if day < since:
            if line.withdrawn or not _same(line, _at(steps, day).get((Condition(), unit))):
                break
            since = day
    return since


def _kind(condition: Condition | PriceLine) -> tuple[str, bool]:
    """What people keep whole or leave to the list: the rates of a tier, below or above thresholds."""
    return condition.service_tier, condition.above > 0


def _runs(
    steps: list[Step], condition: Condition, unit: str
) -> Iterator[tuple[date, date | None, Amount, Amount | None]]:
    """(first day, the day after the last one, amount, that for all calls) of every stretch of one amount."""
    runs: list[tuple[date, Amount | None, Amount | None]] = []
    for day, state in steps:
        found = (state.get((condition, unit)), state.get((Condition(), unit)))
        if not runs or runs[-1][1:] != found:
            runs.append((day, *found))
    for run, after in pairwise([*runs, None]):
        if run is not None and run[1] is not None:
            yield run[0], None if after is None else after[0], run[1], run[2]


def _at(steps: list[Step], day: date) -> dict[tuple[Condition, str], Amount]:
    return [state for start, state in steps if start <= day][-1]


def _nearest(unit: str, kept_units: set[str]) -> str:
    return next((total for total in ancestors(unit) if total in kept_units), "input_tokens")


def _in_force(plain: list[PriceLine], unit: str, day: date) -> PriceLine | None:
    moment = datetime.combine(day, time(), UTC)
    begun = [line for line in plain if line.unit == unit and line.valid_from <= moment]
    line = max(begun, key=lambda line: line.valid_from, default=None)
    return None if line is None or line.withdrawn else line


def _same(line: PriceLine | None, amount: Amount | None) -> bool:
    if line is None or amount is None:
        return False
    return Fraction(line.rate) / line.per == Fraction(amount.rate) / amount.per
