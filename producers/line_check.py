"""Is this line an event that will be metered? Answered before anything is sent, in words that say the fix."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec
from pydantic import ValidationError

from meterstream.producers.lines import Line
from meterstream.schema.event import Event, UsageEvent
from meterstream.schema.topics import EVENT_BYTES_MAX

PROBLEMS_SHOWN_MAX: Final = 3
KEY_CHARACTERS_MAX: Final = 128
"""A longer tenant is no tenant; as a key it would take the room of the value."""

_FIXES: Final = {
    "id": "every event needs an id of its own, made where the call is made: without one a second run would charge "
    "twice. Add it, or use --derive-ids, which makes it from the line's content",
    "tenant": "tenant says whose usage it is",
    "specversion": 'add "specversion": "1.0"',
    "type": 'add "type": "meterstream.usage.v1"',
}


class CheckedLine(NamedTuple):
    """`key` and `value` are what to send; `problem` is empty when the line is good."""

    key: bytes
    value: bytes
    problem: str
    time: datetime | None = None
    """Of a good event."""


class _Envelope(msgspec.Struct):
    """As much of a line as is needed to send it although it is wrong."""

    id: Any = None
    tenant: Any = None


def check_line(line: Line, *, derive_ids: bool) -> CheckedLine:
    """Checks one line against the public contract; the bytes are sent as they are in the file.

    With `derive_ids` a line without an id gets one made from its content: two equal lines are one event.
    """
    if line.is_too_long:
        return CheckedLine(b"", b"", f"the line is longer than {EVENT_BYTES_MAX:,} bytes and cannot be sent")
    value = line.content.strip()
    envelope = _envelope(value)
    if derive_ids and envelope is not None and envelope.id is None:
        value = _with_derived_id(value)
    tenant = envelope.tenant if envelope is not None and isinstance(envelope.tenant, str) else ""
    problem, time = _judge(value)
    return CheckedLine(tenant[:KEY_CHARACTERS_MAX].encode("utf-8", "replace"), value, problem, time)


def _envelope(value: bytes) -> _Envelope | None:
    try:
        return msgspec.json.decode(value, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _with_derived_id(value: bytes) -> bytes:
    """Spliced in, not encoded anew, so that every other byte stays as it was."""
    name = b'"id":"line-' + sha256(value).hexdigest()[:32].encode() + b'"'
    rest = value[1:].lstrip()
    return b"{" + name + (rest if rest.startswith(b"}") else b"," + rest)


def _judge(value: bytes) -> tuple[str, datetime | None]:
    """(what is wrong, when it happened); one of the two is empty."""
    try:
        event = UsageEvent.model_validate_json(value)
    except ValidationError as error:
        return _describe(error), None
    missing = [name for name in ("specversion", "type") if name not in event.model_fields_set]
    if missing:
        return "; ".join(f"{name} is missing: {_FIXES[name]}" for name in missing), None
    problem = _strict_problem(value)
    return problem, None if problem else event.time


def _strict_problem(value: bytes) -> str:
    """What the pydantic model would convert and the rater refuses: a number as text, a time without its T."""
    try:
        msgspec.json.decode(value, type=Event)
    except msgspec.ValidationError as error:
        # Quantities may have decimal places; the model above has judged them.
        return "" if "$.data.usage" in str(error) else str(error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"not JSON: {error}"
    return ""


def _describe(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "missing":
            problems.append(f"{name} is missing" + (f": {_FIXES[name]}" if name in _FIXES else ""))
        else:
            problems.append(f"{name}: {item['msg']}" if name else item["msg"])
    more = len(problems) - PROBLEMS_SHOWN_MAX
    return "; ".join(problems[:PROBLEMS_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
