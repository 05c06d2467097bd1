"""Price files: what people write and review, and every mistake in one answer.

A file names one provider and lists models; a model has one block for each day on which some of its rates
changed. A block gives only the units that change: a unit that it leaves out keeps its rate. `docs/prices.md`
shows the format. Pure but for reading the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from meterstream.schema.catalog import ALL_UNITS, BILLED, CONDITIONS, PERCENT_PATTERN, REPORTED_COST, check_name
from meterstream.schema.currencies import CURRENCIES
from meterstream.schema.errors import PriceFileInvalid
from meterstream.schema.marked_yaml import MarkedYaml, Parts
from meterstream.schema.model_match import Match, check_match
from meterstream.schema.money import NO_CURRENCY
from meterstream.schema.numbers import no_number
from meterstream.schema.providers import provider_of
from meterstream.schema.time_window import parse_time_window
from meterstream.schema.units import QUANTITY_MAX, UNITS

RATE_PLACES_MAX: Final = 18
RATE_DIGITS_MAX: Final = 12
PER_MAX: Final = 10**12
PERCENT_MAX: Final = 1000
SERVICE_TIERS: Final = ("standard", "batch", "flex", "priority", "fast")
"""Those that vendors' bodies are read into; another one may be named."""
NAME_LENGTH_MAX: Final = 128
WITHDRAWN: Final = "withdrawn"
VALID_FROM_MIN: Final = datetime(2000, 1, 1, tzinfo=UTC)
VALID_FROM_MAX: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""Outside of these a date is a slip, such as 2206 or a zero that became 1970."""

_RATE = re.compile(r"(\d+)(?:\.(\d+))?", re.ASCII)
_PERCENT = re.compile(PERCENT_PATTERN, re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PriceLine:
    """`rate` (plain decimal text) units of `currency` for `per` units of `unit`, from `valid_from` (aware UTC) on.

    `tenant` None: for every tenant that has no price of its own. `withdrawn`: from then on there is no price;
    the rate is "0" and means nothing. `checked_on`: the day on which a person or a tool compared it with `source`.
    """

    provider: str
    model: str
    unit: str
    rate: str
    per: int
    currency: str
    valid_from: datetime
    source: str
    checked_on: date | None = None
    tenant: str | None = None
    withdrawn: bool = False
    match: Match = "exact"
    service_tier: str = ""
    region: str = ""
    processing: str = ""
    time_window: str = ""
    above: int = 0
    above_unit: str = "input_tokens"
    percent: str | None = None
    place: str = field(default="", compare=False)
    """File and line that say it, for messages."""

    @property
    def key(self) -> tuple[object, ...]:
        """What there may be only one of in one set of files."""
        return price_key(self)

    @property
    def is_plain(self) -> bool:
        """Whether it is for every call of one model."""
        return self.percent is None and not condition_text(self)

    def __str__(self) -> str:
        whose = f" for tenant {self.tenant}" if self.tenant else ""
        when = f" ({condition})" if (condition := condition_text(self)) else ""
        return f"{self.provider} {self.model} {self.unit}{when}{whose} from {self.valid_from:%Y-%m-%dT%H:%M:%SZ}"


class _Conditional(Protocol):
    """What a price line, a catalog entry and a row of the database have in common."""

    @property
    def match(self) -> Match: ...
    @property
    def service_tier(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def processing(self) -> str: ...
    @property
    def time_window(self) -> str: ...
    @property
    def above(self) -> int: ...
    @property
    def above_unit(self) -> str: ...


KEY_FIELDS: Final = ("provider", "model", "unit", "tenant", *CONDITIONS)


def price_key(price: object) -> tuple[object, ...]:
    """What makes two prices (lines or catalog entries) the same one, believed anew: their key and beginning."""
    is_percent = getattr(price, "percent") is not None  # noqa: B009 - as the other fields
    return *(getattr(price, name) for name in KEY_FIELDS), is_percent, getattr(price, "valid_from")  # noqa: B009


def condition_text(price: _Conditional, *, with_match: bool = True) -> str:
    """For which calls a price is, for people: 'batch, above 200,000 input_tokens'; '' for all calls of the model.

    `with_match`: with how its name is meant, where it is no exact one.
    """
    parts = [
        price.match if with_match and price.match != "exact" else "",
        price.service_tier,
        price.region and f"region {price.region}",
        price.processing and f"processing {price.processing}",
        price.time_window,
        f"above {price.above:,} {price.above_unit}" if price.above else "",
    ]
    return ", ".join(part for part in parts if part)


def parse_moment(text: str) -> datetime:
    """'2024-10-02' (midnight UTC) or a full timestamp with its zone -> aware UTC. Raises ValueError with the fix."""
    if _DAY.fullmatch(text):
        return datetime.combine(parse_day(text), time(), UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 2024-10-02 or 2024-10-02T17:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no zone: add Z for UTC, or an offset such as +02:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is no time that UTC can express") from None


def parse_day(text: str) -> date:
    """'2024-10-02' -> date. Raises ValueError with the fix."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no day: write it as 2024-10-02") from None


def _quoted(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'{value} is a YAML number, and those are floats: write the rate in quotes, "{value}"')
    return value


def _rate(text: str) -> str:
    """Without needless zeros. As text throughout: Decimal's context would round a rate of 30 digits."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(no_number(text, "rate", 'write plain decimal text such as "0.15"'))
    whole, places = match[1].lstrip("0"), (match[2] or "").rstrip("0")
    if len(places) > RATE_PLACES_MAX:
        raise ValueError(
            f"{text!r} has {len(places)} decimal places, {RATE_PLACES_MAX} fit: give the rate for more units (`per`)"
        )
    if len(whole) > RATE_DIGITS_MAX:
        raise ValueError(f"{text!r} has {len(whole)} digits before the point, {RATE_DIGITS_MAX} fit")
    return f"{whole or '0'}.{places}" if places else whole or "0"


def _unit(name: str) -> str:
    if name not in UNITS:
        close = difflib.get_close_matches(name, sorted(UNITS), n=1)
        fix = f"did you mean {close[0]}?" if close else f"units are {', '.join(sorted(UNITS))}"
        raise ValueError(f"there is no unit {name!r}: {fix}")
    return name


def _currency(code: str) -> str:
    if code == NO_CURRENCY:
        raise ValueError(f"{code!r} is no currency: it is kept for what has no price")
    if not _CURRENCY.fullmatch(code):
        raise ValueError(f"{code!r} is no currency: write three capital letters as in ISO 4217, such as USD")
    if code not in CURRENCIES:
        close = difflib.get_close_matches(code, sorted(CURRENCIES), n=3)
        fix = f"did you mean {' or '.join(close)}?" if close else "such as USD"
        raise ValueError(f"{code!r} is no currency in use, as of ISO 4217: {fix}")
    return code


def _tidy(name: str) -> str:
    check_name(name)
    if name != name.strip():
        raise ValueError(f"{name!r} begins or ends with a space: remove it")
    return name


def _valid_from(value: object) -> object:
    if not isinstance(value, str):
        return value
    moment = parse_moment(value)
    if not VALID_FROM_MIN <= moment < VALID_FROM_MAX:
        raise ValueError(
            f"{value!r} is before {VALID_FROM_MIN:%Y} or after {VALID_FROM_MAX:%Y}: is it a slip? "
            f"{VALID_FROM_MIN:%Y-%m-%d} means since ever"
        )
    return moment


def _service_tier(name: str) -> str:
    if name != name.lower():
        raise ValueError(f"{name!r}: service tiers are written in small letters: {name.lower()!r}")
    close = difflib.get_close_matches(name, SERVICE_TIERS, n=1, cutoff=0.75)
    if name not in SERVICE_TIERS and close:
        raise ValueError(f"there is no service tier {name!r}: did you mean {close[0]}?")
    return name


def _percent(text: str) -> str:
    if not _PERCENT.fullmatch(text):
        fix = 'write "-10" for a tenth less, "7.5" for a markup; 6 places fit'
        raise ValueError(no_number(text, "percent", fix))
    if not -100 <= Decimal(text) <= PERCENT_MAX:
        raise ValueError(f"{text!r} is outside of -100 to {PERCENT_MAX}: is it a slip?")
    return text


# For editors: what JSON Schema can say of each of these. The validators above decide.
_MONTH_AND_DAY: Final = "-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK: Final = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIDY_SCHEMA: Final = {"type": "string", "pattern": r"^\S(.*\S)?$"}
_NAME_SCHEMA: Final = {**_TIDY_SCHEMA, "minLength": 1, "maxLength": NAME_LENGTH_MAX}
_RATE_SCHEMA: Final = {
    "type": "string",
    "pattern": f"^0*[0-9]{{1,{RATE_DIGITS_MAX}}}(\\.[0-9]{{1,{RATE_PLACES_MAX}}}0*)?$",
    "description": 'plain decimal text, in quotes: "0.15"',
}
_PERCENT_SCHEMA: Final = {
    "type": "string",
    "pattern": PERCENT_PATTERN.replace(r"\d", "[0-9]"),
    "description": 'on the common rate: "-10" is a tenth less, "7.5" a markup; for one tenant',
}
_WITHDRAWN_SCHEMA: Final = {"const": WITHDRAWN, "description": "from then on there is no price"}

_MaybeEmptyName = Annotated[
    str,
    Field(max_length=NAME_LENGTH_MAX),
    AfterValidator(_tidy),
    WithJsonSchema({"type": "string", "pattern": r"^(\S(.*\S)?)?$", "maxLength": NAME_LENGTH_MAX}),
]
_Name = Annotated[
    str, Field(min_length=1, max_length=NAME_LENGTH_MAX), AfterValidator(_tidy), WithJsonSchema(_NAME_SCHEMA)
]
_Currency = Annotated[str, AfterValidator(_currency), WithJsonSchema({"enum": sorted(CURRENCIES)})]
_Per = Annotated[int, Field(gt=0, le=PER_MAX)]
_Unit = Annotated[str, AfterValidator(_unit), WithJsonSchema({"enum": sorted(UNITS)})]
_Source = Annotated[
    str,
    Field(min_length=1, max_length=500),
    AfterValidator(_tidy),
    WithJsonSchema({**_TIDY_SCHEMA, "minLength": 1, "maxLength": 500}),
]
_ValidFrom = Annotated[
    datetime,
    BeforeValidator(_valid_from),
    WithJsonSchema(
        {"type": "string", "pattern": rf"^20[0-9]{{2}}{_MONTH_AND_DAY}([T ].+(Z|[+-][0-9]{{2}}(:?[0-9]{{2}})?))?$"}
    ),
]
_Date = Annotated[
    date,
    BeforeValidator(lambda value: parse_day(value) if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "pattern": f"^[0-9]{{4}}{_MONTH_AND_DAY}$"}),
]


_Condition = Annotated[_Name, Field(strict=True)]
_ServiceTier = Annotated[
    _Condition,
    AfterValidator(_service_tier),
    WithJsonSchema(
        {"anyOf": [{"enum": list(SERVICE_TIERS)}, {**_NAME_SCHEMA, "pattern": r"^[^\sA-Z]([^A-Z]*[^\sA-Z])?$"}]}
    ),
]
_Window = Annotated[
    _Name,
    AfterValidator(lambda text: str(parse_time_window(text))),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^([A-Za-z,-]+\s+)?{_CLOCK}-{_CLOCK}\s+[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
        }
    ),
]
_PercentText = Annotated[str, BeforeValidator(_quoted), AfterValidator(_percent)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Amount(_Strict):
    """The rate of one unit: `"2.5"`, `{rate: "10", per: 1000}`, or `withdrawn`."""

    rate: Annotated[str, BeforeValidator(_quoted), AfterValidator(_rate)]
    per: _Per | None = None
    withdrawn: bool = False
    percent: _PercentText | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        value = _quoted(value)
        if value == WITHDRAWN:
            return {"rate": "0", "withdrawn": True}
        if isinstance(value, dict) and "percent" in value:
            return _as_percent(value)
        return {"rate": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """For editors: as people write it."""
        rate = {"anyOf": [_WITHDRAWN_SCHEMA, _RATE_SCHEMA]}
        per = {"type": "integer", "minimum": 1, "maximum": PER_MAX, "description": "how many units the rate is for"}
        percent = {"anyOf": [_WITHDRAWN_SCHEMA, _PERCENT_SCHEMA]}
        return {
            "anyOf": [
                *rate["anyOf"],
                _object({"rate": _RATE_SCHEMA, "per": per}, "rate"),
                _object({"percent": percent}, "percent"),
            ]
        }


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _as_percent(value: dict[str, object]) -> dict[str, object]:
    others = sorted(set(value) - {"percent"})
    if others:
        raise ValueError(f"a percent is on the common rate: leave out {', '.join(others)}")
    if value["percent"] == WITHDRAWN:
        return {"rate": "0", "withdrawn": True, "percent": "0"}
    return {"rate": "0", "percent": value["percent"]}


class DatedRates(_Strict):
    """What changed on one day, for the calls that the block names: all, or those of a service tier, a region, a
    kind of processing, some hours of the week, above a threshold. A `source` of its own needs a `checked_on` of its
    own, or has none. `percent`: for all units."""

    valid_from: _ValidFrom
    """The first moment: 2024-10-02 (midnight UTC) or 2024-10-02T17:00:00Z."""
    rates: Annotated[dict[_Unit, Amount], Field(min_length=1)] | None = None
    """By unit, what has changed; a unit that is left out keeps its rate."""
    percent: Annotated[Amount, WithJsonSchema({"anyOf": [_WITHDRAWN_SCHEMA, _PERCENT_SCHEMA]})] | None = None
    """Of a tenant: on the common rates of all units."""
    service_tier: _ServiceTier | None = None
    """Only for calls of this tier."""
    region: _Condition | None = None
    """Only for calls in this region."""
    processing: _Condition | None = None
    """Only for calls whose tag `processing` says this."""
    time_window: _Window | None = None
    """Only at these hours of the vendor's own clock: mon-fri 16:30-00:30 Asia/Shanghai."""
    above: Annotated[int, Field(gt=0, le=QUANTITY_MAX)] | None = None
    """Only for calls with strictly more input_tokens (or above_unit) than this."""
    above_unit: _Unit | None = None
    """What `above` counts; left out: input_tokens."""
    source: _Source | None = None
    """The page or contract that says so, where it is not that of the file."""
    checked_on: _Date | None = None
    """The day on which the rates were compared with the source."""
    note: str = ""
    """Free text."""

    @field_validator("percent", mode="before")
    @classmethod
    def _percent_of_all(cls, value: object) -> object:
        return {"percent": _quoted(value)}

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


class Billing(_Strict):
    """From a moment on, which cost is billed of the calls for which the vendor reports one."""

    valid_from: _ValidFrom
    """The first moment: 2024-10-02 (midnight UTC) or 2024-10-02T17:00:00Z."""
    bill: Literal["reported", "computed", "withdrawn"]
    """The cost that the vendor reports, or the one by our rates; of a tenant: withdrawn, and it is as for everybody."""
    source: _Source | None = None
    """The page or contract that says so, where it is not that of the file."""
    note: str = ""
    """Free text."""


class ModelPrices(_Strict):
    """Models that cost the same: a name and its dated snapshots. The name "" is for what has no model."""

    match: Match = "exact"
    """What the names are: whole names, beginnings, or patterns (`meterstream.schema.model_match`)."""
    names: Annotated[list[_MaybeEmptyName], Field(min_length=1)]
    """Models that cost the same."""
    prices: Annotated[list[DatedRates], Field(min_length=1)]
    """One block for each day on which something changed."""
    tenant: _Name | None = None
    """Only for this tenant."""
    note: str = ""
    """Free text."""

    @field_validator("names")
    @classmethod
    def _names_fit(cls, names: list[str], info: ValidationInfo) -> list[str]:
        for name in names:
            check_match(info.data.get("match", "exact"), name)
        return names


class Header(_Strict):
    """What holds for a whole file."""

    provider: _Name
    """Whose prices these are, as events name it."""
    currency: _Currency
    """ISO 4217."""
    per: _Per
    """How many units a rate is for, unless it says otherwise: 1000000."""
    source: _Source | None = None
    """The page that says so, for blocks that name none."""
    checked_on: _Date | None = None
    """The day on which the rates were compared with that source."""
    tenant: _Name | None = None
    """Only for this tenant."""
    note: str = ""
    """Free text."""

    @field_validator("provider")
    @classmethod
    def _is_our_name(cls, provider: str) -> str:
        if provider_of(provider) != provider:
            raise ValueError(f"{provider!r} is called {provider_of(provider)!r} here, and its events are too")
        return provider


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
    """The prices of one file or several. Blocks for the read. Raises PriceFileInvalid with every mistake and fix."""
    readings: list[_Reading] = []
    for path in paths:
        try:
            readings.append(_read_text(path.read_text("utf-8"), path.name))
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
    match: str = "exact",
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
                    match=model.match,
                    service_tier=block.service_tier or "",
                    region=block.region or "",
                    processing=block.processing or "",
                    time_window=block.time_window or "",
                    above=block.above or 0,
                    above_unit=block.above_unit or "input_tokens",
                    percent=amount.percent,
                    place=reading.place(place),
                )


_LISTS: Final[dict[str, tuple[type[_Strict], Callable[[_Reading, Header, Any, Parts], Iterator[PriceLine]]]]] = {
    "billing": (Billing, _billed),
    "models": (ModelPrices, _expanded),
}
