"""Which positions a raw record has, and which event stands at each.

Read with plain `json`, so that a fault of the pipeline's decoder is not repeated where the two are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from meterstream.schema.position import position_of

ARRAY_EVENTS_MAX: Final = 10_000
"""A longer array is rejected as a whole: it is part of the contract of `usage.raw`."""

HEADERS_MAX: Final = 256
"""A record with more is rejected as a whole."""

_SINGLE = ("application/cloudevents+json", "application/cloudevents-batch+json", "application/json")


class RawRecord(Protocol):
    """What is read of a Kafka record (aiokafka's ConsumerRecord has it)."""

    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Sent(NamedTuple):
    """One position of a raw record; `event_id` is None where the bytes do not say one."""

    position: int
    event_id: str | None


def positions_of(record: RawRecord) -> list[Sent]:
    """Every position that the record has: one an element of an array, else index 0. Pure."""
    if len(record.headers) > HEADERS_MAX or not all(_is_text(name) for name, _ in record.headers):
        return [Sent(position_of(record.offset), None)]
    # Of a name that comes twice the first counts.
    headers = {name.lower(): bytes(value or b"") for name, value in reversed(record.headers)}
    if _is_binary(headers):
        return [Sent(position_of(record.offset), headers.get("ce_id", b"").decode("utf-8", "replace"))]
    content = _parse(record.value or b"")
    if isinstance(content, list) and _is_taken_apart(content, headers):
        return [Sent(position_of(record.offset, index), _id_of(item)) for index, item in enumerate(content)]
    parts = _parts(record.value or b"") if content is None else []
    if _is_taken_apart(parts, headers):
        return [Sent(position_of(record.offset, index), _id_of(_parse(part))) for index, part in enumerate(parts)]
    return [Sent(position_of(record.offset), _id_of(content))]


def _parts(value: bytes) -> list[bytes]:
    """Elements of an array that is no JSON as a whole, as its brackets and commas say; [] where these fail."""
    text = value.decode("latin-1").strip(" \t\r\n")
    parts: list[bytes] = []
    opened: list[str] = []
    begin = 1
    for at, character in enumerate(_without_strings(text) if text.startswith("[") else ""):
        if character in "[{":
            opened.append(character)
        elif character in "]}":
            if opened.pop() + character not in ("[]", "{}"):
                return []
            if not opened:
                return [*parts, text[begin:at].encode("latin-1")] if at == len(text) - 1 else []
        elif character == "," and len(opened) == 1:
            parts.append(text[begin:at].encode("latin-1"))
            begin = at + 1
            if len(parts) > ARRAY_EVENTS_MAX:
                return parts
    return []


def _without_strings(text: str) -> Iterator[str]:
    """Each character, blanks for those of strings. Where a string does not end, all is blank from there on."""
    is_string = is_escaped = False
    for character in text:
        if is_string:
            is_string = is_escaped or character != '"'
            is_escaped = character == "\\" and not is_escaped
            yield " "
        else:
            is_string = character == '"'
            yield " " if is_string else character


def _is_text(name: str) -> bool:
    """False for a header's name that was not UTF-8: its reader has put surrogates for the wrong bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _media_type(headers: dict[str, bytes]) -> str | None:
    if "content-type" not in headers:
        return None
    return headers["content-type"].split(b";", 1)[0].strip().lower().decode("utf-8", "replace")


def _is_binary(headers: dict[str, bytes]) -> bool:
    media_type = _media_type(headers) or ""
    return any(name.startswith("ce_") for name in headers) and not media_type.startswith("application/cloudevents")


def _is_taken_apart(content: Sequence[Any], headers: dict[str, bytes]) -> bool:
    return _media_type(headers) in (None, *_SINGLE) and 1 <= len(content) <= ARRAY_EVENTS_MAX


def _parse(value: bytes) -> Any:
    """The JSON value, or None. Only structure and ids count here: numbers stay text, wrong UTF-8 is let through."""
    try:
        # JSON's structure is ASCII, so latin-1 reads any bytes without changing what is an element of what.
        parsed = json.loads(value.decode("latin-1"), parse_int=str, parse_float=str, parse_constant=_refuse)
        if b"\\u" in value:
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no JSON text
    except (ValueError, RecursionError):
        return None
    return parsed


def _refuse(name: str) -> None:
    raise ValueError(name)


def _id_of(content: Any) -> str | None:
    found = content.get("id") if isinstance(content, dict) else None
    if not isinstance(found, str):
        return None
    try:
        return found.encode("latin-1").decode("utf-8")
    except UnicodeError:  # an escape made a character beyond latin-1, which came as it is
        return found
