"""What is on a raw topic, and taking a record apart into the events it holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

INDEX_BITS = 20
ARRAY_LENGTH_MAX = 10_000
HEADERS_MAX = 256

CLOUDEVENTS = "application/cloudevents"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
JSON = "application/json"
READ = ("specversion", "type", "id", "source", "time", "tenant")
"""The attributes that count in binary mode."""


@dataclass(frozen=True)
class RawRecord:
    """One record as it lies on the broker."""

    topic: str
    partition: int
    offset: int
    appended_ms: int
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Refused:
    """Why an event, or a whole record, is not metered: unreadable, invalid, time, amount or conflict.

    A class stands for several reasons of the product: which of two faults of one event is named first is
    nobody's contract.
    """

    rule: str
    detail: str


@dataclass(frozen=True)
class Slot:
    """One position of a record: the JSON object of an event, or why there is none."""

    position: int
    content: dict[str, Any] | Refused


def slots_of(record: RawRecord) -> list[Slot]:
    """Every position that the record has. A record that is bad as a whole has exactly one, index 0."""
    first = record.offset << INDEX_BITS
    content = _content(record)
    if isinstance(content, list):
        return [Slot(first | index, _as_object(item)) for index, item in enumerate(content)]
    return [Slot(first, content)]


def _content(record: RawRecord) -> dict[str, Any] | list[Any] | Refused:
    if len(record.headers) > HEADERS_MAX:
        return Refused("unreadable", "too many headers")
    if record.value is None:
        return Refused("unreadable", "no value")
    try:
        "".join(name for name, _ in record.headers).encode("utf-8")
    except UnicodeEncodeError:
        return Refused("unreadable", "a header's name was not UTF-8: its reader has put surrogates there")
    headers = {name.lower(): value for name, value in reversed(record.headers)}  # of a name that comes twice the first
    media = _media_type(headers)
    is_binary = any(name.startswith("ce_") for name in headers) and not (media or "").startswith(CLOUDEVENTS)
    if media not in ((None, JSON) if is_binary else (None, JSON, STRUCTURED, BATCH)):
        return Refused("unreadable", f"content type {media}")
    if is_binary and any(name.removeprefix("ce_") in READ for name in _repeated(record) if name.startswith("ce_")):
        return Refused("invalid", "an attribute comes twice")
    parsed = parse_json(record.value)
    if isinstance(parsed, Refused):
        return parsed
    return _from_headers(headers, parsed.value) if is_binary else _structured(parsed.value)


def _structured(value: Any) -> dict[str, Any] | list[Any] | Refused:
    if not isinstance(value, list):
        return _as_object(value)
    if not value:
        return Refused("unreadable", "an array without events")
    if len(value) > ARRAY_LENGTH_MAX:
        return Refused("unreadable", "an array with too many events")
    return value


def _repeated(record: RawRecord) -> list[str]:
    names = [name.lower() for name, _ in record.headers]
    return [name for name in names if names.count(name) > 1]


def _media_type(headers: dict[str, bytes]) -> str | None:
    if "content-type" not in headers:
        return None
    return headers["content-type"].split(b";")[0].strip().lower().decode("utf-8", "replace")


def _from_headers(headers: dict[str, bytes], data: Any) -> dict[str, Any] | Refused:
    try:
        attributes = {
            name[3:]: value.decode("utf-8")
            for name, value in headers.items()
            if name.startswith("ce_") and name[3:] in READ
        }
    except UnicodeDecodeError:
        return Refused("unreadable", "an attribute is not UTF-8")
    return {**attributes, "data": data}


def _as_object(value: Any) -> dict[str, Any] | Refused:
    return value if isinstance(value, dict) else Refused("invalid", "not a JSON object")


@dataclass(frozen=True)
class Parsed:
    """A JSON value; every number with a fraction or an exponent is a Decimal."""

    value: Any


def parse_json(data: bytes) -> Parsed | Refused:
    """Strict JSON: UTF-8, no NaN, no lone surrogates, bounded depth."""
    try:
        value = json.loads(data.decode("utf-8"), parse_float=Decimal, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")  # a lone surrogate fails here
    except (ValueError, RecursionError, ArithmeticError) as error:
        return Refused("unreadable", f"not JSON: {type(error).__name__}")
    return Parsed(value)


def _no_constant(name: str) -> Any:
    raise ValueError(name)
