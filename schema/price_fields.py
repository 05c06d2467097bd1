"""What the fields of a price file take: each type's check, with the fix in its message, and its JSON Schema. Pure."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema

from meterstream.schema.catalog import PERCENT_PATTERN, check_name
from meterstream.schema.currencies import CURRENCIES
from meterstream.schema.moments import parse_day, parse_moment
from meterstream.schema.money import NO_CURRENCY
from meterstream.schema.numbers import no_number
from meterstream.schema.providers import OTHER_NAMES, provider_of
from meterstream.schema.time_window import parse_time_window
from meterstream.schema.units import UNITS

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


def quoted(value: object) -> object:
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


def _provider(name: str) -> str:
    if provider_of(name) != name:
        raise ValueError(f"{name!r} is called {provider_of(name)!r} here, and its events are too")
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
PERCENT_SCHEMA: Final = {
    "type": "string",
    "pattern": PERCENT_PATTERN.replace(r"\d", "[0-9]"),
    "description": 'on the common rate: "-10" is a tenth less, "7.5" a markup; for one tenant',
}
WITHDRAWN_SCHEMA: Final = {"const": WITHDRAWN, "description": "from then on there is no price"}

MaybeEmptyName = Annotated[
    str,
    Field(max_length=NAME_LENGTH_MAX),
    AfterValidator(_tidy),
    WithJsonSchema({"type": "string", "pattern": r"^(\S(.*\S)?)?$", "maxLength": NAME_LENGTH_MAX}),
]
Name = Annotated[
    str, Field(min_length=1, max_length=NAME_LENGTH_MAX), AfterValidator(_tidy), WithJsonSchema(_NAME_SCHEMA)
]
Provider = Annotated[
    Name, AfterValidator(_provider), WithJsonSchema({**_NAME_SCHEMA, "not": {"enum": sorted(OTHER_NAMES)}})
]
Currency = Annotated[str, AfterValidator(_currency), WithJsonSchema({"enum": sorted(CURRENCIES)})]
Per = Annotated[int, Field(gt=0, le=PER_MAX)]
Unit = Annotated[str, AfterValidator(_unit), WithJsonSchema({"enum": sorted(UNITS)})]
Source = Annotated[
    str,
    Field(min_length=1, max_length=500),
    AfterValidator(_tidy),
    WithJsonSchema({**_TIDY_SCHEMA, "minLength": 1, "maxLength": 500}),
]
ValidFrom = Annotated[
    datetime,
    BeforeValidator(_valid_from),
    WithJsonSchema(
        {"type": "string", "pattern": rf"^20[0-9]{{2}}{_MONTH_AND_DAY}([T ].+(Z|[+-][0-9]{{2}}(:?[0-9]{{2}})?))?$"}
    ),
]
Day = Annotated[
    date,
    BeforeValidator(lambda value: parse_day(value) if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "pattern": f"^[0-9]{{4}}{_MONTH_AND_DAY}$"}),
]


Condition = Annotated[Name, Field(strict=True)]
ServiceTier = Annotated[
    Condition,
    AfterValidator(_service_tier),
    WithJsonSchema(
        {"anyOf": [{"enum": list(SERVICE_TIERS)}, {**_NAME_SCHEMA, "pattern": r"^[^\sA-Z]([^A-Z]*[^\sA-Z])?$"}]}
    ),
]
Hours = Annotated[
    Name,
    AfterValidator(lambda text: str(parse_time_window(text))),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^([A-Za-z,-]+\s+)?{_CLOCK}-{_CLOCK}\s+[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
        }
    ),
]
_PercentText = Annotated[str, BeforeValidator(quoted), AfterValidator(_percent)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Amount(Strict):
    """The rate of one unit: `"2.5"`, `{rate: "10", per: 1000}`, or `withdrawn`."""

    rate: Annotated[str, BeforeValidator(quoted), AfterValidator(_rate)]
    per: Per | None = None
    withdrawn: bool = False
    percent: _PercentText | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        value = quoted(value)
        if value == WITHDRAWN:
            return {"rate": "0", "withdrawn": True}
        if isinstance(value, dict) and "percent" in value:
            return _as_percent(value)
        return {"rate": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """For editors: as people write it."""
        rate = {"anyOf": [WITHDRAWN_SCHEMA, _RATE_SCHEMA]}
        per = {"type": "integer", "minimum": 1, "maximum": PER_MAX, "description": "how many units the rate is for"}
        percent = {"anyOf": [WITHDRAWN_SCHEMA, PERCENT_SCHEMA]}
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
