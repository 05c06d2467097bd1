"""Budgets: an amount of a currency for a calendar period, in a scope, with thresholds that raise alerts.

A budget belongs to one tenant, because everything of a tenant is in one partition: that makes it exact
without coordination. Its scope narrows it to a project, user, API key, provider or model, in any
combination. Every change is a new version: what was is never changed, and each version alerts anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Annotated, Any, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from meterstream.schema.errors import BudgetInvalid
from meterstream.schema.money import NO_CURRENCY, PICO_PLACES, to_pico
from meterstream.schema.numbers import plain_decimal

THRESHOLDS_MAX: Final = 20
PERCENT_MAX: Final = 1000
AMOUNT_MAX: Final = Decimal(10) ** 12
AMOUNT_MIN: Final = Decimal(10) ** -PICO_PLACES

SCOPE_FIELDS: Final = ("project_id", "user_id", "api_key_id", "provider", "model")
"""What a scope may name, by the names that an event has for it."""

_AMOUNT_LENGTH_MAX: Final = 64
_OF_A_MACHINE: Final = frozenset({"Factory", "localtime", "posixrules"})
"""Files beside the IANA zones: what they say differs from machine to machine."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_CURRENCY = re.compile(r"[A-Z]{3}\Z")


def _is_plain(text: str) -> str:
    if any(ord(character) < 0x20 for character in text):
        raise ValueError("holds a control character; no event has one")
    return text


ScopeText = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_is_plain)]
WholeNumber = Annotated[int, Field(strict=True)]


class Scope(NamedTuple):
    """None: any. All parts that are named must match."""

    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    provider: str | None = None
    model: str | None = None


class Budget(BaseModel):
    """One version of a budget, checked. `amount` is in `currency`; times are aware UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_is_plain)]
    name: str
    version: WholeNumber = Field(default=1, ge=1)
    amount: Decimal
    currency: str
    period: Literal["day", "week", "month"] = "month"
    time_zone: str = "UTC"
    """IANA name: periods begin at midnight there, whatever the clocks do."""
    week_start: WholeNumber = Field(default=1, ge=1, le=7)
    """ISO 8601 weekday on which a week begins: 1 is Monday. Only a week has one."""
    anchor_day: WholeNumber = Field(default=1, ge=1, le=31)
    """Day on which a month begins; in a shorter month its last day. Only a month has one."""
    thresholds: tuple[WholeNumber, ...] = (50, 80, 100)
    """Percent of the amount, ascending; reached means at or above."""
    project_id: ScopeText | None = None
    user_id: ScopeText | None = None
    api_key_id: ScopeText | None = None
    provider: ScopeText | None = None
    model: ScopeText | None = None
    removed: bool = False
    """True: from this version on the budget counts nothing and raises nothing."""

    @property
    def scope(self) -> Scope:
        """What it is narrowed to within the tenant."""
        return Scope(self.project_id, self.user_id, self.api_key_id, self.provider, self.model)

    @property
    def amount_pico(self) -> int:
        """The amount in 1e-12 of its currency."""
        return to_pico(self.amount)

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not _NAME.match(name):
            raise ValueError("1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit")
        return name

    @field_validator("amount", mode="before")
    @classmethod
    def _is_text_or_decimal(cls, amount: Any) -> Decimal:
        if isinstance(amount, float):
            raise ValueError("an amount is decimal text, never a float")
        text = str(amount)
        number = amount if isinstance(amount, Decimal) else plain_decimal(text)
        if len(text) > _AMOUNT_LENGTH_MAX or not number.is_finite() or not AMOUNT_MIN <= number <= AMOUNT_MAX:
            raise ValueError(f"{AMOUNT_MIN:f} to {AMOUNT_MAX:f}, in at most {_AMOUNT_LENGTH_MAX} characters")
        # The default context would round away what stands after the 28th digit.
        exponent = number.normalize(Context(prec=_AMOUNT_LENGTH_MAX)).as_tuple().exponent
        if isinstance(exponent, int) and exponent < -PICO_PLACES:
            raise ValueError(f"at most {PICO_PLACES} decimal places")
        return number

    @field_validator("currency")
    @classmethod
    def _is_currency(cls, currency: str) -> str:
        if not _CURRENCY.match(currency) or currency == NO_CURRENCY:
            raise ValueError("three capital letters of ISO 4217, as USD; not XXX, which means no currency")
        return currency

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        zone_of(name)
        return name

    @field_validator("thresholds")
    @classmethod
    def _are_thresholds(cls, percents: tuple[int, ...]) -> tuple[int, ...]:
        if not 1 <= len(percents) <= THRESHOLDS_MAX:
            raise ValueError(f"1 to {THRESHOLDS_MAX} of them, these are {len(percents)}")
        if not all(1 <= percent <= PERCENT_MAX for percent in percents):
            raise ValueError(f"whole percents from 1 to {PERCENT_MAX}")
        if list(percents) != sorted(set(percents)):
            raise ValueError("ascending, each once")
        return percents

    @field_validator("week_start", "anchor_day")
    @classmethod
    def _belongs_to_period(cls, day: int, info: ValidationInfo) -> int:
        kind = "week" if info.field_name == "week_start" else "month"
        period = info.data.get("period", kind)  # absent when it is wrong itself
        if day != 1 and period != kind:
            raise ValueError(f"a {period} has none, only a {kind} has")
        return day


def checked(**fields: Any) -> Budget:
    """A Budget. Raises BudgetInvalid with every mistake, one a line."""
    try:
        return Budget(**fields)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'budget'}: {_in_words(item)}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise BudgetInvalid("\n".join(problems)) from error


_NUMBERS: Final[Mapping[str, str]] = {
    "week_start": "a weekday, such as monday, or its number, 1 to 7",
    "anchor_day": "a day of the month, 1 to 31",
    "thresholds": "a whole percent, such as 80",
    "version": "a whole number from 1 on",
}
_WORDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "a budget has no such field",
    "string_too_short": "is empty",
    "string_too_long": "at most {max_length} characters",
    "string_type": "must be text",
    "string_unicode": "holds bytes that are no UTF-8",
    "literal_error": "must be {expected}",
}
"""pydantic's kinds of mistakes, as we say them."""


def _in_words(mistake: ErrorDetails) -> str:
    field, kind = mistake["loc"][0] if mistake["loc"] else "", mistake["type"]
    if kind == "value_error":
        return mistake["msg"].removeprefix("Value error, ")
    if kind in _WORDS:
        return _WORDS[kind].format(**mistake.get("ctx", {}))
    return _NUMBERS.get(str(field), mistake["msg"])  # the wrong type, or out of its range


def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises ValueError for one that does not exist."""
    if not name.startswith(("posix/", "right/")) and name not in _OF_A_MACHINE:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown, or a path that leaves the database
            pass
    raise ValueError(f"there is no time zone {name[:64]!r}: give an IANA name, as Europe/Berlin")
