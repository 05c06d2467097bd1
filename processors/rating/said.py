"""What a rejected event says of itself, where it can be read at all: for people who look for it. Nobody checks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from meterstream.schema.cloudevents import ATTRIBUTE_PREFIX


class Said(NamedTuple):
    """None: it does not say."""

    tenant: str | None
    event_id: str | None


class _Event(msgspec.Struct):
    tenant: Any = None
    id: Any = None


_decode: Final = msgspec.json.Decoder(_Event).decode
NOTHING: Final = Said(None, None)


def said(value: bytes, headers: Sequence[tuple[str, bytes]]) -> Said:
    """Of the attributes in JSON, else of the `ce_` headers of binary mode. Never raises."""
    try:
        event = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event = _Event()
    named = {name.lower(): content for name, content in reversed(headers) if content}
    return Said(*(_text(found) or _header(named.get(f"{ATTRIBUTE_PREFIX}{name}")) for name, found in _fields(event)))


def _fields(event: _Event) -> tuple[tuple[str, Any], ...]:
    return ("tenant", event.tenant), ("id", event.id)


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) and found else None


def _header(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "replace")
