"""Typed arguments -> the bytes of one event, judged as the rater will judge them. Pure but for clock and randomness.

What is refused here would be rejected behind the broker, where the caller no longer hears of it. The fast path is one
encode and one typed decode; only what looks unusual is looked at again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from numbers import Integral, Real
from typing import Any, Final, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec

from meterstream.schema import tracing
from meterstream.schema.errors import EventRejected
from meterstream.schema.ids import uuid7
from meterstream.schema.units import QUANTITY_MAX, QUANTITY_PLACES_MAX, UNITS, WHOLE_UNITS, misfit
from meterstream.schema.wire_event import (
    EVENT_TYPE,
    KEY_BYTES_MAX,
    NAME_LENGTH_MAX,
    TEXT_LENGTH_MAX,
    VENDOR_USAGE_BYTES_MAX,
    VENDOR_USAGE_DEPTH_MAX,
    Data,
    Event,
    blank_text,
    is_nested_too_deep,
    key_bytes,
    key_too_long,
)

FREE_TEXTS: Final = ("error", "user_agent")
"""Cut to their bound instead of being refused: a long message is no reason to lose a charge."""

_SHOWN_MAX: Final = 80
_MAY_HAVE_LONG_KEYS: Final = KEY_BYTES_MAX - 4 * NAME_LENGTH_MAX
"""Fewer bytes cannot hold a key that is too long."""
_BINARY: Final = frozenset({bytes, bytearray, memoryview})
_EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_STEP: Final = Decimal(1).scaleb(-QUANTITY_PLACES_MAX)

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(Event).decode


class UsageFields(TypedDict, total=False):
    """Fields of an event's `data` beside `provider`: see docs/publish.md. None is the same as not given."""

    usage: Mapping[str, int | float | Decimal] | None
    """unit -> inclusive total. A float is rounded to nine places, but never to zero."""
    model: str | None
    operation: str | None
    endpoint: str | None
    method: str | None
    status_code: int | None
    status: Literal["ok", "error", "cancelled"] | None
    error: str | None
    latency_ms: float | None
    ttft_ms: float | None
    retries: int | None
    request_bytes: int | None
    response_bytes: int | None
    user_id: str | None
    project_id: str | None
    api_key_id: str | None
    agent_id: str | None
    task_id: str | None
    conversation_id: str | None
    session_id: str | None
    message_id: str | None
    request_id: str | None
    operation_id: str | None
    attempt: int | None
    estimated: bool | None
    environment: str | None
    region: str | None
    service_tier: str | None
    variant: str | None
    ip: str | None
    user_agent: str | None
    reported_amount: str | None
    reported_currency: str | None
    tags: Mapping[str, str] | None
    vendor_usage: Mapping[str, Any] | None


class MadeEvent(NamedTuple):
    """`key` and `value` are what a record of it has."""

    id: str
    key: bytes
    value: bytes


def make_event(
    source: str, tenant: str, provider: str, fields: Mapping[str, Any], *, event_id: str | None, time: datetime | None
) -> MadeEvent:
    """`fields`: see `UsageFields`. Without an id a UUIDv7 is made; `time` is aware, without one it is now.

    Raises EventRejected with what is wrong and what to do.
    """
    if not isinstance(tenant, str):
        raise _no_tenant(tenant)
    data = {name: value for name, value in fields.items() if value is not None}
    data["provider"] = provider
    usage = data.get("usage")
    is_fractional = False
    if usage:
        data["usage"] = usage = _quantities(usage)
        is_fractional = any(type(quantity) is not int for quantity in usage.values())
    for name in FREE_TEXTS:
        if name in data and isinstance(data[name], str):
            data[name] = data[name][:TEXT_LENGTH_MAX]
    if not _BINARY.isdisjoint(map(type, data.values())):
        raise _bytes_given("", data)
    if (
        "tags" in data
        and isinstance(data["tags"], Mapping)
        and not _BINARY.isdisjoint(map(type, data["tags"].values()))
    ):
        raise _bytes_given("tags: ", data["tags"])
    made_id = uuid7() if event_id is None else text_of_id(event_id)
    wire: dict[str, Any] = {
        "specversion": "1.0",
        "type": EVENT_TYPE,
        "id": made_id,
        "source": source,
        "tenant": tenant,
        "time": time or datetime.now(UTC),
    }
    traceparent = tracing.current()
    if traceparent is not None:
        wire[tracing.TRACEPARENT] = traceparent
    wire["data"] = data
    try:
        value = _encode(wire)
        # The typed decoder knows no fractions; quantities have been judged already.
        event = _decode(_encode({**wire, "data": {**data, "usage": {}}}) if is_fractional else value)
    except (TypeError, ValueError, RecursionError) as error:  # msgspec's and Unicode's errors are ValueErrors
        raise _refusal(error, tenant, data) from error
    _check(event, value)
    return MadeEvent(made_id, tenant.encode(), value)


def text_of_id(event_id: object) -> str:
    """Of an event's id or a UUID. Raises EventRejected for what is neither."""
    if isinstance(event_id, UUID):
        return str(event_id)
    if not isinstance(event_id, str):
        raise EventRejected("invalid_field", f"id is {_shown(event_id)}; give a text, or none to have one made")
    return event_id


def _bytes_given(where: str, fields: Mapping[str, Any]) -> EventRejected:
    """They would be sent as base64."""
    name = next(name for name, value in fields.items() if type(value) in _BINARY)
    return EventRejected("invalid_field", f"{where}{name} is {_shown(fields[name])}; give a text")


def _quantities(usage: Any) -> dict[str, int | Decimal]:
    if not isinstance(usage, Mapping):
        raise EventRejected("invalid_quantity", 'usage is no mapping of unit -> quantity such as {"input_tokens": 12}')
    found: dict[str, int | Decimal] = {}
    for unit, quantity in usage.items():
        if unit not in UNITS:
            raise EventRejected(
                "unknown_unit", f"usage names {str(unit)[:_SHOWN_MAX]!r}; units: {', '.join(sorted(UNITS))}"
            )
        found[unit] = quantity if type(quantity) is int else _number(unit, quantity)
        if not 0 <= found[unit] <= QUANTITY_MAX:
            raise EventRejected("invalid_quantity", f"{unit} is {_shown(quantity)}; it is 0 to {QUANTITY_MAX}")
    if len(found) != 2 or "input_tokens" not in found or "output_tokens" not in found:
        reason = misfit(found)
        if reason is not None:
            raise EventRejected("subcount_above_total", reason)
    return found


def _number(unit: str, quantity: Any) -> int | Decimal:
    """An int where it is whole. What has more than nine places is rounded half to even, but never to nothing."""
    if isinstance(quantity, bool) or not isinstance(quantity, Real | Decimal):
        raise EventRejected("invalid_quantity", f"{unit} is {_shown(quantity)}; a quantity is a number")
    if isinstance(quantity, Integral):
        return int(quantity)
    number = quantity if isinstance(quantity, Decimal) else Decimal(repr(float(quantity)))
    if not number.is_finite() or number > QUANTITY_MAX:
        raise EventRejected("invalid_quantity", f"{unit} is {_shown(quantity)}; it is 0 to {QUANTITY_MAX}")
    rounded = number.quantize(_STEP, context=_EXACT)
    if number and not rounded:
        raise EventRejected("invalid_quantity", f"{unit} is {_shown(quantity)}; at most nine decimal places")
    whole = int(rounded)
    if whole == rounded:
        return whole
    if unit in WHOLE_UNITS:
        raise EventRejected("invalid_quantity", f"{unit} is {_shown(quantity)}; it is counted in whole numbers")
    return rounded.normalize()


def _check(event: Event, value: bytes) -> None:
    """What the typed decode cannot see."""
    data = event.data
    _check_blanks(event)
    if not data.operation and not data.endpoint:
        raise EventRejected("invalid_field", "give an operation (chat, embedding, sms, ...) or an endpoint")
    if len(value) > _MAY_HAVE_LONG_KEYS and key_bytes(event.tenant, data) > KEY_BYTES_MAX:
        raise EventRejected("invalid_field", key_too_long(key_bytes(event.tenant, data)))
    if b"\\" in value:
        _check_characters(event)
    if len(data.vendor_usage) > VENDOR_USAGE_BYTES_MAX:
        raise EventRejected(
            "invalid_field", f"vendor_usage has {len(data.vendor_usage)} bytes, at most {VENDOR_USAGE_BYTES_MAX}"
        )
    if data.vendor_usage:
        body = bytes(data.vendor_usage)
        if not body.startswith(b"{"):
            raise EventRejected("invalid_field", "vendor_usage is no mapping: give the answer, or its usage object")
        if is_nested_too_deep(body):
            raise EventRejected("nested_too_deep", f"vendor_usage is nested deeper than {VENDOR_USAGE_DEPTH_MAX}")
    if data.reported_amount is not None or data.reported_currency:
        _check_reported(value)


def _check_blanks(event: Event) -> None:
    blank = blank_text(event)
    if blank == "tenant":
        raise _no_tenant(event.tenant)
    if blank is not None:
        raise EventRejected("invalid_field", f"{blank} holds only blanks")


def _check_characters(event: Event) -> None:
    names = ("id", "source", "tenant")
    texts = [(name, getattr(event, name)) for name in names]
    texts += [(name, getattr(event.data, name)) for name in Data.__struct_fields__]
    for name, text in texts:
        least = "\x01" if name in FREE_TEXTS else " "
        if isinstance(text, str) and any(character < least for character in text):
            raise EventRejected("control_character", f"{name} holds a control character")
    if any("\0" in text for pair in event.data.tags.items() for text in pair):
        raise EventRejected("control_character", "tags hold NUL")


def _check_reported(value: bytes) -> None:
    from pydantic import ValidationError

    from meterstream.schema.event import UsageEvent

    try:
        UsageEvent.model_validate_json(value)
    except ValidationError as error:
        raise EventRejected("invalid_field", error.errors(include_url=False)[0]["msg"]) from error


def _no_tenant(tenant: object) -> EventRejected:
    return EventRejected("missing_tenant", f"tenant is {_shown(tenant)}; it says whose usage it is, as text")


def _refusal(error: Exception, tenant: str, data: Mapping[str, Any]) -> EventRejected:
    if not tenant:
        return _no_tenant(tenant)
    unknown = sorted(set(data) - set(Data.__struct_fields__))
    if unknown:
        return EventRejected(
            "unknown_field",
            f"no event has {', '.join(map(repr, unknown[:3]))}. Texts of prompts and answers are never metered; your "
            f"own dimensions go into tags. Known: {', '.join(Data.__struct_fields__)}",
        )
    return EventRejected("invalid_field", str(error))


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 38 digits"
    return repr(value)[:_SHOWN_MAX]
