"""Price files: what people write and review, and every mistake in one answer.

A file names one provider and lists models; a model has one block for each day on which some of its rates
changed. A block gives only the units that change: a unit that it leaves out keeps its rate. `docs/prices.md`
shows the format. Pure but for reading the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from meterstream.schema.catalog import ALL_UNITS, BILLED, REPORTED_COST
from meterstream.schema.errors import PriceFileInvalid
from meterstream.schema.marked_yaml import MarkedYaml, Parts
from meterstream.schema.model_match import WILDCARDS, Match, check_match
from meterstream.schema.money import NO_CURRENCY
from meterstream.schema.price_fields import (
    PERCENT_SCHEMA,
    WITHDRAWN,
    WITHDRAWN_SCHEMA,
    Amount,
    Condition,
    Currency,
    Day,
    Hours,
    MaybeEmptyName,
    Name,
    Per,
    Provider,
    ServiceTier,
    Source,
    Strict,
    Unit,
    ValidFrom,
    quoted,
)
from meterstream.schema.price_line import PriceLine
from meterstream.schema.units import QUANTITY_MAX


class DatedRates(Strict):
    """What changed on one day, for the calls that the block names: all, or those of a service tier, a region, a
    kind of processing, some hours of the week, above a threshold. A `source` of its own needs a `checked_on` of its
    own, or has none. `percent`: for all units."""

    valid_from: ValidFrom
    """The first moment: 2024-10-02 (midnight UTC) or 2024-10-02T17:00:00Z."""
    rates: Annotated[dict[Unit, Amount], Field(min_length=1)] | None = None
    """By unit, what has changed; a unit that is left out keeps its rate."""
    percent: Annotated[Amount, WithJsonSchema({"anyOf": [WITHDRAWN_SCHEMA, PERCENT_SCHEMA]})] | None = None
    """Of a tenant: on the common rates of all units."""
    service_tier: ServiceTier | None = None
    """Only for calls of this tier."""
    region: Condition | None = None
    """Only for calls in this region."""
    processing: Condition | None = None
    """Only for calls whose tag `processing` says this."""
    time_window: Hours | None = None
    """Only at these hours of the vendor's own clock: mon-fri 16:30-00:30 Asia/Shanghai."""
    above: Annotated[int, Field(gt=0, le=QUANTITY_MAX)] | None = None
    """Only for calls with strictly more input_tokens (or above_unit) than this."""
    above_unit: Unit | None = None
    """What `above` counts; left out: input_tokens."""
    source: Source | None = None
    """The page or contract that says so, where it is not that of the file."""
    checked_on: Day | None = None
    """The day on which the rates were compared with the source."""
    note: str = ""
    """Free text."""

    @field_validator("percent", mode="before")
    @classmethod
    def _percent_of_all(cls, value: object) -> object:
        return {"percent": quoted(value)}

    @model_validator(mode="after")
    def _says_something(self) -> DatedRates:
        if self.rates is None and self.percent is None:
            raise ValueError("`rates` is missing: a unit and its rate on each line; or `percent`, for a tenant")
        if self.above is None and self.above_unit is not None:
            raise ValueError("`above_unit` needs `above`: the quantity above which the rates hold")
        return self

    def amounts(self) -> dict[str, Amount]:
        """By unit."""
        return (self.rates or {}) | ({ALL_UNITS: self.percent} if self.percent else {})


class Billing(Strict):
    """From a moment on, which cost is billed of the calls for which the vendor reports one."""

    valid_from: ValidFrom
    """The first moment: 2024-10-02 (midnight UTC) or 2024-10-02T17:00:00Z."""
    bill: Literal["reported", "computed", "withdrawn"]
    """The cost that the vendor reports, or the one by our rates; of a tenant: withdrawn, and it is as for everybody."""
    source: Source | None = None
    """The page or contract that says so, where it is not that of the file."""
    note: str = ""
    """Free text."""


def _fits(name: str, info: ValidationInfo) -> str:
    """The name where it can stand with the `match` beside it."""
    if "match" in info.data:  # else that is the mistake
        match: Match | None = info.data["match"]
        if match is None and set(name) & WILDCARDS:
            raise ValueError(
                f"{name!r} is the name of one model: write `match: pattern` if `*`, `?` or `[` stand for others, "
                "or `match: exact` if the vendor calls it so"
            )
        check_match(match or "exact", name)
    return name


_NO_WILDCARDS: Final[dict[str, Any]] = {
    "if": {"not": {"required": ["match"]}},
    "then": {"properties": {"names": {"items": {"not": {"pattern": r"[*?\[]"}}}}},
}
"""The same for editors."""


class ModelPrices(Strict):
    """Models that cost the same: a name and its dated snapshots. The name "" is for what has no model."""

    model_config = ConfigDict(json_schema_extra=_NO_WILDCARDS)

    match: Match | None = None
    """Whole names (also where it is left out), beginnings, or patterns (`meterstream.schema.model_match`)."""
    names: Annotated[list[Annotated[MaybeEmptyName, AfterValidator(_fits)]], Field(min_length=1)]
    """Models that cost the same."""
    prices: Annotated[list[DatedRates], Field(min_length=1)]
    """One block for each day on which something changed."""
    tenant: Name | None = None
    """Only for this tenant."""
    note: str = ""
    """Free text."""


class Header(Strict):
    """What holds for a whole file."""

    provider: Provider
    """Whose prices these are, as events name it."""
    currency: Currency
    """ISO 4217."""
    per: Per
    """How many units a rate is for, unless it says otherwise: 1000000."""
    source: Source | None = None
    """The page that says so, for blocks that name none."""
    checked_on: Day | None = None
    """The day on which the rates were compared with that source."""
    tenant: Name | None = None
    """Only for this tenant."""
    note: str = ""
    """Free text."""


class PriceFile(Header):
    """A whole file, for its JSON Schema; it is read part by part, so that one mistake does not hide the others."""

    billing: Annotated[list[Billing], Field(min_length=1)] | None = None
    """Which cost is billed where the vendor reports one; left out: the one by our rates."""
    models: Annotated[list[ModelPrices], Field(min_length=1)] | None = None
    """Models and their prices."""


_HINTS: Final = {
    "provider": "whose prices are these?",
    "currency": "such as USD",
    "per": "how many units the rate is for: 1000000",
    "models": "the list of models",
    "billing": "a list of blocks, each with valid_from and bill",
    "bill": "reported or computed",
    "names": "a list such as [gpt-4o, gpt-4o-2024-08-06]",
    "prices": "a list of blocks, each with valid_from and rates",
    "valid_from": "the day from which the rates hold, such as 2024-10-02",
    "rates": "a unit and its rate on each line",
    "rate": 'decimal text in quotes, such as "0.15"',
}


@dataclass
class _Reading(MarkedYaml):
    """One file while it is read."""

    prices: list[PriceLine] = field(default_factory=list)


def _reading(name: str) -> _Reading:
    return _Reading(name, hints=_HINTS, documentation="docs/prices.md")


def load(*paths: Path) -> list[PriceLine]:
    """The prices of one file or several. Blocks for the read. Raises PriceFileInvalid with every mistake and fix.

    Mistakes call a file as it is given here: two may have one name in two folders.
    """
    readings: list[_Reading] = []
    for path in paths:
        try:
            readings.append(_read_text(path.read_text("utf-8"), str(path)))
        except (OSError, UnicodeDecodeError) as error:
            raise PriceFileInvalid(f"{path}: cannot be read: {error}") from error
    return _finished(readings)


def parse(text: str, name: str = "prices") -> list[PriceLine]:
    """The prices of one file's text; `name` is how mistakes call it. Raises PriceFileInvalid."""
    return _finished([_read_text(text, name)])


def single(
    *,
    provider: str,
    model: str,
    unit: str,
    rate: str,
    per: int,
    currency: str,
    valid_from: str,
    source: str,
    tenant: str | None = None,
    checked_on: str | None = None,
    match: str | None = None,
    percent: str | None = None,
    **conditions: object,
) -> PriceLine:
    """One price from its parts as text, held to the same rules; the rate may be `withdrawn`.

    `percent` takes the place of the rate; the unit may be ALL_UNITS then. `conditions`: those of a block that are
    given, such as `service_tier`. Raises PriceFileInvalid with every mistake.
    """
    header = {"provider": provider, "currency": currency, "per": per, "source": source, "tenant": tenant}
    amount = rate if percent is None else {"percent": percent}
    what = {"percent": percent} if unit == ALL_UNITS else {"rates": {unit: amount}}
    entry = {"names": [model], "match": match, "prices": [{"valid_from": valid_from, **what, **conditions}]}
    reading = _reading("price")
    _read(reading, {**header, "checked_on": checked_on, "models": [entry]})
    return replace(_finished([reading])[0], place="")


def billing(*, provider: str, bill: str, valid_from: str, source: str, tenant: str | None = None) -> PriceLine:
    """Which cost of a vendor is billed, from its parts as text. Raises PriceFileInvalid with every mistake."""
    header = {"provider": provider, "currency": "USD", "per": 1, "source": source, "tenant": tenant}
    reading = _reading("price")
    _read(reading, {**header, "billing": [{"valid_from": valid_from, "bill": bill}]})
    return replace(_finished([reading])[0], place="")


@cache
def shipped() -> tuple[PriceLine, ...]:
    """The prices that come with this version, all providers. Blocks for the read. Raises PriceFileInvalid."""
    folder = files("meterstream.schema").joinpath("prices")
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return tuple(_finished([_read_text(file.read_text("utf-8"), file.name) for file in found]))


def _finished(readings: Iterable[_Reading]) -> list[PriceLine]:
    """All prices of all files; what one file says twice, or two files say, is a mistake too."""
    mistakes: list[str] = []
    first: dict[object, PriceLine] = {}
    lines: list[PriceLine] = []
    for reading in readings:
        mistakes += reading.mistakes
        for line in reading.prices:
            lines.append(line)
            before = first.setdefault(line.key, line)
            if before is not line:
                mistakes.append(f"{line.place}: {line} is already at {before.place}: remove one of the two")
    if mistakes:
        text = "".join(f"\n  - {mistake}" for mistake in mistakes)
        raise PriceFileInvalid(f"{len(mistakes)} {'mistake' if len(mistakes) == 1 else 'mistakes'} in prices:{text}")
    return lines


def _read_text(text: str, name: str) -> _Reading:
    reading = _reading(name)
    data = reading.load(text)
    if not reading.mistakes or data is not None:
        _read(reading, data)
    return reading


def _read(reading: _Reading, data: object) -> None:
    """Fills `reading` with prices and mistakes."""
    if not isinstance(data, dict):
        reading.mistake((), "is no price file: it begins with `provider`; docs/prices.md shows the format")
        return
    header = reading.check(Header, {key: value for key, value in data.items() if key not in _LISTS}, ())
    for name in [name for name in _LISTS if name in data] or ["models"]:
        entries = data.get(name)
        if not isinstance(entries, list) or not entries:
            reading.mistake((name,), f"`{name}` is missing or empty: {_HINTS[name]}")
            continue
        model, lines_of = _LISTS[name]
        for index, entry in enumerate(entries):
            found = reading.check(model, entry, (name, index))
            if header is not None and found is not None:
                reading.prices.extend(lines_of(reading, header, found, (name, index)))


def _billed(reading: _Reading, header: Header, billing: Billing, path: Parts) -> Iterator[PriceLine]:
    source = billing.source or header.source
    if source is None:
        reading.mistake(path, _NO_SOURCE)
        return
    yield PriceLine(
        provider=header.provider,
        model="",
        unit=REPORTED_COST,
        rate=BILLED.get(billing.bill, "0"),
        per=1,
        currency=NO_CURRENCY,
        valid_from=billing.valid_from,
        source=source,
        tenant=header.tenant,
        withdrawn=billing.bill == WITHDRAWN,
        place=reading.place(path),
    )


_NO_SOURCE: Final = "`source` is missing: name the vendor's page or the contract, here or for the file"


def _expanded(reading: _Reading, header: Header, model: ModelPrices, path: Parts) -> Iterator[PriceLine]:
    for index, block in enumerate(model.prices):
        inside = (*path, "prices", index)
        source = block.source or header.source
        if source is None:
            reading.mistake(inside, _NO_SOURCE)
            continue
        checked_on = block.checked_on or (None if block.source else header.checked_on)
        tenant = model.tenant or header.tenant
        for unit, amount in block.amounts().items():
            place = (*inside, "percent") if unit == ALL_UNITS else (*inside, "rates", unit)
            if amount.percent is not None and tenant is None:
                reading.mistake(place, "`percent` is on the common rate and for one tenant: add `tenant`")
                continue
            for name in model.names:
                yield PriceLine(
                    provider=header.provider,
                    model=name,
                    unit=unit,
                    rate=amount.rate,
                    per=amount.per or header.per,
                    currency=header.currency if amount.percent is None else NO_CURRENCY,
                    valid_from=block.valid_from,
                    source=source,
                    checked_on=checked_on,
                    tenant=tenant,
                    withdrawn=amount.withdrawn,
                    match=model.match or "exact",
                    service_tier=block.service_tier or "",
                    region=block.region or "",
                    processing=block.processing or "",
                    time_window=block.time_window or "",
                    above=block.above or 0,
                    above_unit=block.above_unit or "input_tokens",
                    percent=amount.percent,
                    place=reading.place(place),
                )


_LISTS: Final[dict[str, tuple[type[Strict], Callable[[_Reading, Header, Any, Parts], Iterator[PriceLine]]]]] = {
    "billing": (Billing, _billed),
    "models": (ModelPrices, _expanded),
}
