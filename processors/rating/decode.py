"""Record bytes -> events, or the reason why not. Pure; total over any bytes.

The fast path is one typed msgspec decode. What it refuses is looked at again, slowly, to find the reason
that helps the publisher, and to admit what the fast path cannot express (fractional quantities).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meterstream.processors.rating.broken_array import split_array
from meterstream.processors.rating.faults import internal_error
from meterstream.schema import cloudevents
from meterstream.schema.errors import EventRejected
from meterstream.schema.event import EVENT_TYPE, Data, Event
from meterstream.schema.names import is_name
from meterstream.schema.position import INDEX_MAX
from meterstream.schema.quantity import parse_usage
from meterstream.schema.tracing import TRACEPARENT

EVENTS_PER_RECORD_MAX: Final = 10_000
assert EVENTS_PER_RECORD_MAX <= INDEX_MAX
RECORD_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of the decompressed value: a small compressed batch can hold a very large one."""

Decoded = tuple[Event | EventRejected, bytes]
"""An event, or why it is none; with the bytes that it was read from."""

_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # ValidationError is a DecodeError
_STRUCTURED_TYPES = (None, cloudevents.STRUCTURED, cloudevents.BATCH, cloudevents.BINARY_DATA)
_REQUIRED = ("specversion", "id", "source", "time", "data")

_FREE_TEXT: Final = frozenset({"error", "user_agent", "tags"})
_CONTROL: Final = re.compile(r"[\x00-\x1f]")

_PLAIN_MESSAGES = ("Expected `", "Object missing required field `", "Invalid RFC3339 ")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$[a-z0-9_.\[\]]*`)?")
_AT_PATH = re.compile(r" - at `\$[a-z0-9_.\[\]]*`\Z")
"""Of fields of ours alone: it has no keys of a mapping."""

_decode_event = msgspec.json.Decoder(Event).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode_record(value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> list[Decoded]:
    """All events of one raw record, in the order in which they were sent; never empty, never raises.

    The name of a header that is not UTF-8 has surrogates where the wrong bytes are (`batches.RawRecord`).
    """
    if len(headers) > cloudevents.HEADERS_MAX:
        rejected = EventRejected("too_many_headers", f"more than {cloudevents.HEADERS_MAX} headers")
        return [(rejected, value or b"")]
    if value is None:
        return [(EventRejected("null_value", "the record's value is null"), b"")]
    if (name := cloudevents.unreadable_name(headers)) is not None:
        detail, private = f"the name of the header {name[:40]!a} is not UTF-8", "the name of a header is not UTF-8"
        return [(EventRejected("header_name", detail, private), value)]
    if len(value) > RECORD_BYTES_MAX:
        return [(EventRejected("record_too_large", f"{len(value)} bytes; at most {RECORD_BYTES_MAX}"), value)]
    try:
        return _decode_content(value, headers)
    except EventRejected as rejected:
        return [(rejected, value)]
    except Exception as fault:
        return [(internal_error(fault), value)]


def _decode_content(value: bytes, headers: Sequence[tuple[str, bytes]]) -> list[Decoded]:
    """By what the headers say. Raises EventRejected where the record has no event to speak of."""
    media_type = cloudevents.media_type(headers)
    is_structured = media_type is not None and media_type.startswith("application/cloudevents")
    if not is_structured and (attributes := cloudevents.attributes(headers)):
        return [(_decode_binary(value, attributes, media_type), value)]
    if media_type not in _STRUCTURED_TYPES:
        private = "the content-type is no CloudEvent in JSON"
        raise EventRejected("content_type", f"content-type {media_type!r} is no CloudEvent in JSON", private)
    if value.lstrip(b" \t\r\n")[:1] == b"[":
        return [(decode_event(element), element) for element in _elements(value)]
    return [(decode_event(value), value)]


def decode_event(value: bytes) -> Event | EventRejected:
    """One structured event. Returns the rejection instead of raising: its neighbours go on."""
    try:
        try:
            event = _decode_event(value)
        except _DECODE_ERRORS:
            return _look_again(value)
        if event.type != EVENT_TYPE:
            return _unknown_type(event.type)
        for quantity in event.data.usage.values():
            if type(quantity) is not int:
                return _look_again(value)
    except Exception as fault:
        return internal_error(fault)
    return event


def _elements(value: bytes) -> list[bytes]:
    try:
        elements: Sequence[msgspec.Raw | bytes] = _decode_array(value)
    except _DECODE_ERRORS as error:
        if not (elements := split_array(value, EVENTS_PER_RECORD_MAX + 1)):
            raise _malformed(error) from error
    if not elements:
        raise EventRejected("empty_array", "the array holds no event")
    if len(elements) > EVENTS_PER_RECORD_MAX:
        raise EventRejected("array_too_long", f"{len(elements)} events; at most {EVENTS_PER_RECORD_MAX} in a record")
    return [bytes(element) for element in elements]


def _decode_binary(value: bytes, attributes: list[tuple[str, bytes]], media_type: str | None) -> Event | EventRejected:
    """Admits and refuses what it would in structured mode, whatever the attributes hold that nobody reads."""
    if media_type not in (None, cloudevents.BINARY_DATA):
        detail = f"binary mode with data of type {media_type!r}; send application/json"
        return EventRejected("content_type", detail, "binary mode with data of another type; send application/json")
    envelope: dict[str, Any] = {}
    for name, content in attributes:
        if name == TRACEPARENT:
            envelope[name] = content.decode("utf-8", "replace")
        elif name in cloudevents.REQUIRED:
            if name in envelope:  # which of them is meant, nobody can tell
                return EventRejected("not_an_event", f"the header ce_{name} is there more than once")
            try:
                envelope[name] = content.decode("utf-8")
            except UnicodeDecodeError as error:
                return EventRejected("malformed_json", f"the header ce_{name} is not UTF-8: {error}")
    is_plain = not any(map(_CONTROL.search, envelope.values()))
    # Raw is copied unread: bytes that are more than one object would go on in the envelope, and change its attributes.
    _parse_object(value, "data")
    envelope["data"] = msgspec.Raw(value)
    event = decode_event(msgspec.json.encode(envelope))
    if not is_plain and isinstance(event, Event):
        check_characters(event)
    return event


# --------------------------------------------------------------------------- the slow path


def _look_again(value: bytes) -> Event | EventRejected:
    """Finds the most helpful reason; admits an event whose only surprise is a fractional quantity."""
    try:
        return _decode_slowly(value)
    except EventRejected as rejected:
        return rejected


def _decode_slowly(value: bytes) -> Event:
    envelope = _parse_object(value, "the event")
    _check_envelope(envelope)
    data = _parse_object(bytes(envelope["data"]), "data")
    usage = parse_usage(bytes(data.pop("usage", b"{}")))
    try:
        event = _decode_event(msgspec.json.encode({**envelope, "data": data}))
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except _DECODE_ERRORS as error:
        raise _malformed(error) from error
    event.data.usage = usage
    return event


def _parse_object(value: bytes, what: str) -> dict[str, msgspec.Raw]:
    try:
        value.decode("utf-8")
        msgspec.json.decode(value)  # the whole of it: Raw members are not looked into
    except msgspec.ValidationError:
        pass  # a number beyond any machine number: judged where it stands
    except _DECODE_ERRORS as error:
        raise _malformed(error) from error
    try:
        return _decode_object(value)
    except _DECODE_ERRORS as error:
        raise EventRejected("not_an_event", f"{what} is not a JSON object") from error


def _check_envelope(envelope: dict[str, msgspec.Raw]) -> None:
    event_type = _text(envelope.get("type"))
    if event_type is not None and event_type != EVENT_TYPE:
        raise _unknown_type(event_type)
    missing = [name for name in ("type", *_REQUIRED) if name not in envelope]
    if len(missing) > len(_REQUIRED) // 2:
        raise EventRejected("not_an_event", f"no CloudEvent: {', '.join(missing)} missing")
    if not _text(envelope.get("tenant")):
        raise EventRejected("missing_tenant", "the attribute `tenant` is missing, empty or no text")
    if missing:
        raise EventRejected("not_an_event", f"{', '.join(missing)} missing")


def _text(raw: msgspec.Raw | None) -> str | None:
    """The JSON string in `raw`, or None when it is something else."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except _DECODE_ERRORS:
        return None


def _unknown_type(event_type: str) -> EventRejected:
    known = f"this version meters {EVENT_TYPE}"
    return EventRejected("unknown_type", f"type {event_type[:80]!r}; {known}", f"another type; {known}")


def _malformed(error: Exception) -> EventRejected:
    if isinstance(error, RecursionError):
        return EventRejected("nested_too_deep", "nested deeper than any event")
    return EventRejected("malformed_json", str(error))


def _invalid(error: msgspec.ValidationError) -> EventRejected:
    message = str(error)
    return EventRejected("unknown_field" if "unknown field" in message else "invalid_field", message, _private(message))


def _private(message: str) -> str:
    """A message of the decoder without words of the event: only what is known to hold none stays as it is."""
    if message.startswith(_PLAIN_MESSAGES):
        return message
    unknown = _UNKNOWN_FIELD.fullmatch(message)
    if unknown is not None and is_name(unknown[1]):
        return message
    where = _AT_PATH.search(message)
    return f"not what may stand there{where[0] if where else ''}"


def check_characters(event: Event) -> None:
    """Raises EventRejected for a character that no text of an event may hold."""
    for name, text in _texts_of(event):
        if "\x00" in text:
            raise EventRejected("control_character", f"{name} holds NUL")
        if name not in _FREE_TEXT and _CONTROL.search(text):
            raise EventRejected("control_character", f"{name} holds a control character")


def _texts_of(event: Event) -> list[tuple[str, str]]:
    texts: list[tuple[str, str]] = [("id", event.id), ("source", event.source), ("tenant", event.tenant)]
    for name in Data.__struct_fields__:
        member = getattr(event.data, name)
        if isinstance(member, str):
            texts.append((name, member))
    texts += [("tags", text) for pair in event.data.tags.items() for text in pair]
    return texts
