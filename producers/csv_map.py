"""The mapping file of an import: which column, constant or conversion each field of an event comes from.

`docs/import.md` shows the format. Pure but for reading the file.
"""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta, timezone, tzinfo
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, model_validator

from meterstream.producers.csv_rows import Dialect
from meterstream.schema.errors import UsageError
from meterstream.schema.marked_yaml import MarkedYaml, Parts
from meterstream.schema.numbers import plain_decimal
from meterstream.schema.units import UNITS
from meterstream.schema.wire_event import ID_LENGTH_MAX, Data

DOCUMENTATION: Final = "docs/import.md"
WHOLE_NUMBERS: Final = ("status_code", "retries", "request_bytes", "response_bytes", "attempt")
MEASURES: Final = ("latency_ms", "ttft_ms")
NUMBERS: Final = (*WHOLE_NUMBERS, *MEASURES, "reported_amount")
"""Fields whose cells are read as numbers."""
NUMBER_LENGTH_MAX: Final = 60
"""Of a number in a cell or in the map."""

_ENCODINGS: Final = {"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1250", "cp1251", "cp1252", "iso8859-2"}

Column = str | int
"""A name of the header; without a header the number, from 1."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Format(_Strict):
    """How the file is written."""

    delimiter: Annotated[str, Field(pattern=r"^[\t !#-,/:;<-@\[-`{-~]$")] = ","
    quote: Annotated[str, Field(pattern=r"""^["'`|]?$""")] = '"'
    encoding: str = "utf-8"
    header: bool = True
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ",", ".", " ", "'", "_", "\u00a0", "\u202f"] = ""

    @model_validator(mode="after")
    def _fits(self) -> Format:
        try:
            name = codecs.lookup(self.encoding).name
        except LookupError:
            name = ""
        if name not in _ENCODINGS:
            raise ValueError(f"encoding {self.encoding!r} is none of utf-8, latin-1, cp1252, ...: save it as utf-8")
        if self.decimal == self.thousands:
            raise ValueError("decimal and thousands are the same: name the other one too")
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote are the same")
        return self

    @property
    def dialect(self) -> Dialect:
        return Dialect(self.delimiter, self.quote, self.encoding)


class Text(_Strict):
    """A cell as it is, without blanks around it."""

    column: Column | None = None
    constant: Annotated[str, Field(min_length=1)] | None = None
    map: dict[str, str] | None = None
    """What cells are called here; any other is refused."""
    default: str | None = None
    """For empty cells."""

    @model_validator(mode="after")
    def _fits(self) -> Text:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give `column` or `constant`, one of the two")
        if self.constant is not None and (self.map is not None or self.default is not None):
            raise ValueError("a constant has neither `map` nor `default`")
        return self


class Number(_Strict):
    """A cell, or the sum of several, exact."""

    column: Column | None = None
    columns: Annotated[list[Column], Field(min_length=2)] | None = None
    constant: str | None = None
    times: str | None = None
    """A factor, such as "0.001" for milliseconds in a column that is to be seconds."""
    round: bool = False
    """Half to even to nine places; without it a cell with more is refused."""
    default: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Number:
        if sum(given is not None for given in (self.column, self.columns, self.constant)) != 1:
            raise ValueError("give `column`, `columns` or `constant`, one of the three")
        if self.constant is not None and self.default is not None:
            raise ValueError("a constant has no `default`")
        for text in (self.constant, self.times, self.default):
            if text is not None:
                plain_decimal(text)
                if len(text) > NUMBER_LENGTH_MAX:
                    raise ValueError(f"{text[:20]}... has more than {NUMBER_LENGTH_MAX} characters")
        return self

    @property
    def all_columns(self) -> list[Column]:
        return self.columns if self.columns is not None else [] if self.column is None else [self.column]


class Time(_Strict):
    """`format`: iso, unix_s, unix_ms, or a pattern of strptime; `zone`: of times that name none themselves."""

    column: Column | None = None
    columns: Annotated[list[Column], Field(min_length=2)] | None = None
    """Put together with a blank between: a date and a time."""
    format: str = "iso"
    zone: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Time:
        if (self.column is None) == (self.columns is None):
            raise ValueError("give `column` or `columns`, one of the two")
        if self.format not in ("iso", "unix_s", "unix_ms") and "%" not in self.format:
            raise ValueError(f"format {self.format!r} is none of iso, unix_s, unix_ms, or a pattern: %d.%m.%Y %H:%M:%S")
        self.tzinfo  # noqa: B018 - a zone that there is not
        return self

    @property
    def all_columns(self) -> list[Column]:
        return self.columns if self.columns is not None else [] if self.column is None else [self.column]

    @property
    def tzinfo(self) -> tzinfo | None:
        """Raises ValueError."""
        if self.zone is None or self.zone in ("UTC", "Z"):
            return None if self.zone is None else UTC
        try:
            if self.zone[0] in "+-":
                hours, _, minutes = self.zone[1:].partition(":")
                offset = timedelta(hours=int(hours), minutes=int(minutes or "0"))
                return timezone(-offset if self.zone[0] == "-" else offset)
            return ZoneInfo(self.zone)
        except (ValueError, OSError, LookupError):
            raise ValueError(f"zone {self.zone!r} is none: write UTC, +02:00 or a name such as Europe/Berlin") from None


class Id(_Strict):
    """`column`: has ids; `key`: columns that together name a row."""

    column: Column | None = None
    key: Annotated[list[Column], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Id:
        if (self.column is None) == (self.key is None):
            raise ValueError("give `column` or `key`, one of the two; or `id: row`")
        return self


_HINTS: Final = {
    "source": "a name for where the rows come from, such as openai-export; keep it from file to file",
    "id": "`id: row`, `id: {column: request_id}` or `id: {key: [day, model]}`",
    "tenant": "{column: customer} or {constant: acme}",
    "time": "{column: created_at, zone: UTC}",
    "provider": "who is paid: {constant: openai} or {column: provider}",
    "usage": "units and their columns, such as input_tokens: {column: prompt_tokens}",
    "column": "the name of the column, in quotes where YAML would read it as something else",
    "constant": 'text in quotes, such as "openai"',
    "times": 'decimal text in quotes, such as "0.001"',
    "default": 'text in quotes, such as "0"',
    "delimiter": 'one character in quotes, such as ";" or "\\t"',
}


@dataclass(frozen=True, slots=True)
class CsvMap:
    """A mapping that makes sense in itself. `texts` and `numbers`: by the name of an event's field."""

    format: Format
    source: str
    id: Id | None
    """None: from the whole row."""
    time: Time
    tenant: Text
    provider: Text
    texts: Mapping[str, Text]
    numbers: Mapping[str, Number]
    usage: Mapping[str, Number]
    tags: Mapping[str, Text]
    digest: str
    """Of what the file says: another one is another import."""
    places: Mapping[Column, str]
    """Column -> file and line that name it, for messages."""


def load(path: Path) -> CsvMap:
    """Blocks for the read. Raises UsageError with every mistake, its place and the fix."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    return parse(text, path.name)


def parse(text: str, name: str = "map") -> CsvMap:
    """As `load`, from text."""
    reading = MarkedYaml(name, _HINTS, DOCUMENTATION)
    data = reading.load(text)
    if not reading.mistakes and not isinstance(data, dict):
        reading.mistake((), f"is no map: it begins with `source`; {DOCUMENTATION} shows the format")
    made = _Reader(reading, data).read(text) if isinstance(data, dict) else None
    if made is None or reading.mistakes:
        number = len(reading.mistakes)
        lines = "".join(f"\n  - {mistake}" for mistake in reading.mistakes)
        raise UsageError(f"{number} {'mistake' if number == 1 else 'mistakes'} in the map:{lines}")
    return made


class _Reader:
    """Reads part by part, so that one mistake does not hide the others."""

    def __init__(self, reading: MarkedYaml, data: dict[str, Any]) -> None:
        self._reading = reading
        self._data = data
        self._places: dict[Column, str] = {}

    def read(self, text: str) -> CsvMap | None:
        data, reading = self._data, self._reading
        form = reading.check(Format, data.get("format", {}), ("format",))
        for name in ("source", "id", "tenant", "time", "provider", "usage"):
            if name not in data:
                reading.mistake((), f"`{name}` is missing: {_HINTS[name]}")
        if "operation" not in data and "endpoint" not in data:
            reading.mistake((), "`operation` is missing: {constant: chat}, or a column; or an `endpoint`")
        source = data.get("source", "-")
        if not isinstance(source, str) or not 0 < len(source) <= ID_LENGTH_MAX:
            reading.mistake(("source",), f"`source` is text of at most {ID_LENGTH_MAX} characters")
        tenant, provider = (self._one(Text, (name,)) for name in ("tenant", "provider"))
        time = self._one(Time, ("time",))
        identity = None if data.get("id") == "row" else self._one(Id, ("id",))
        usage = self._each(Number, "usage", UNITS, "unit")
        tags = self._each(Text, "tags", None, "tag")
        special = {"format", "source", "id", "tenant", "time", "provider", "usage", "tags"}
        fields = {name: spec for name, spec in data.items() if name not in special}
        known = frozenset(Data.__struct_fields__)
        texts = {name: spec for name in fields if name not in NUMBERS and self._is_known(name, known, (name,), "field")
                 and (spec := self._one(Text, (name,))) is not None}  # fmt: skip
        numbers = {name: spec for name in fields if name in NUMBERS and (spec := self._one(Number, (name,)))}
        if form is not None:
            self._check_columns(form)
        if reading.mistakes or form is None or tenant is None or provider is None or time is None:
            return None
        digest = sha256(text.encode()).hexdigest()
        return CsvMap(form, source, identity, time, tenant, provider, texts, numbers, usage, tags, digest, self._places)

    def _one(self, model: type[Any], path: Parts) -> Any:
        data: Any = self._data
        for part in path:
            if part not in data:
                return None
            data = data[part]
        if not isinstance(data, dict):
            hint = _HINTS.get(str(path[-1]), "{column: name} or {constant: text}")
            self._reading.mistake(path, f"`{path[-1]}` is {str(data)[:40]!r}: write {hint}")
            return None
        found = self._reading.check(model, data, path)
        for name in ("column", "columns", "key"):
            named = getattr(found, name, None)
            for column in [] if named is None else named if isinstance(named, list) else [named]:
                self._places.setdefault(column, self._reading.place((*path, name)))
        return found

    def _each(self, model: type[Any], name: str, known: frozenset[str] | None, what: str) -> dict[str, Any]:
        data = self._data.get(name, {})
        if not isinstance(data, dict) or (name in self._data and not data):
            hint = _HINTS.get(name, "team: {column: team}")
            self._reading.mistake((name,), f"`{name}` is no list of {what}s: {hint}")
            return {}
        found = {
            inside: self._one(model, (name, inside))
            for inside in data
            if known is None or self._is_known(inside, known, (name, inside), what)
        }
        return {inside: spec for inside, spec in found.items() if spec is not None}

    def _is_known(self, name: str, known: frozenset[str], path: Parts, what: str) -> bool:
        if name in known:
            return True
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean `{near[0]}`?" if near else "docs/publish.md names all; your own dimensions go into `tags`"
        self._reading.mistake(path, f"there is no {what} `{name}`: {hint}")
        return False

    def _check_columns(self, form: Format) -> None:
        for column, place in self._places.items():
            if form.header and not isinstance(column, str):
                self._reading.mistakes.append(
                    f"{place}: column {column} is a number: write its name, or `header: false` in `format`"
                )
            elif not form.header and (not isinstance(column, int) or column < 1):
                self._reading.mistakes.append(
                    f"{place}: column {column!r} is a name, but there is no header: write its number, from 1"
                )
