"""Admitted event + charge -> the row of a pack. Pure. The order is that of `meterstream.schema.pack.Row`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any, Final

import msgspec

from meterstream.processors.rating import reported, unpriced, vendor_usage
from meterstream.processors.rating.admit import Claim
from meterstream.schema import tracing
from meterstream.schema.event import Data, Event
from meterstream.schema.pack import RowTuple
from meterstream.schema.units import COLUMN_UNITS

ATTRIBUTES: Final = (
    "endpoint",
    "method",
    "error",
    "ttft_ms",
    "retries",
    "request_bytes",
    "response_bytes",
    "agent_id",
    "task_id",
    "conversation_id",
    "session_id",
    "message_id",
    "request_id",
    "operation_id",
    "attempt",
    "estimated",
    "environment",
    "region",
    "service_tier",
    "variant",
    "ip",
    "user_agent",
)
"""Fields of the event without a column of their own: they are in the ledger's `attributes`."""

TRACE_ID: Final = "trace_id"
"""Attribute of an event that was recorded in a sampled span."""

PRIVATE: Final = frozenset({"ip", "user_agent"})
"""Attributes that a tenant's privacy mode drops."""

_values_of = msgspec.structs.astuple
_attributes_of = itemgetter(*(Data.__struct_fields__.index(name) for name in ATTRIBUTES))
_NO_ATTRIBUTES = _attributes_of(_values_of(Data(provider="none")))
_PRIVACY = (_NO_ATTRIBUTES, tuple(name in PRIVATE for name in ATTRIBUTES))
_Attributes = msgspec.defstruct(
    "Attributes",
    [
        *((name, Any, default) for name, default in zip(ATTRIBUTES, _NO_ATTRIBUTES, strict=True)),
        *((name, str, "") for name in (*vendor_usage.NOTES, *reported.NOTES, *unpriced.NOTES, TRACE_ID)),
    ],
    omit_defaults=True,
    gc=False,
)
"""Leaves out what the event does not say."""
_encode_json = msgspec.json.Encoder(decimal_format="string").encode
_INPUT, _OUTPUT, _CACHE_READ, _CACHE_WRITE, _REASONING = COLUMN_UNITS
_have_columns = frozenset(COLUMN_UNITS).issuperset


def make_row(
    event: Event,
    claim: Claim,
    *,
    position: int,
    appended_at: datetime,
    pricing: str,
    price_revision: int,
    currency: str,
    amount_pico: int | None,
    is_private: bool,
    notes: Mapping[str, str] | None = None,
) -> RowTuple:
    """`is_private`: drop ip and user agent. `notes`: attributes that are not the event's own, such as
    `reported.NOTES`."""
    key, body = claim
    data = event.data
    usage = data.usage
    get = usage.get
    attributes = _attributes_of(_values_of(data))
    latency_ms = data.latency_ms
    if event.traceparent:
        notes = _traced(bytes(event.traceparent), notes)
    return (
        position,
        key,
        body,
        event.tenant,
        event.id,
        event.source,
        event.time,
        appended_at,
        data.provider,
        data.model,
        data.operation,
        data.project_id,
        data.user_id,
        data.api_key_id,
        data.status,
        data.status_code,
        round(latency_ms) if type(latency_ms) is float else latency_ms,
        pricing,
        price_revision,
        currency,
        amount_pico,
        get(_INPUT, 0),
        get(_OUTPUT, 0),
        get(_CACHE_READ, 0),
        get(_CACHE_WRITE, 0),
        get(_REASONING, 0),
        _quantities(usage),
        None if attributes == _NO_ATTRIBUTES and not notes else _attributes(attributes, is_private, notes or {}),
        _encode_json(data.tags).decode() if data.tags else None,
        vendor_usage.to_store(bytes(data.vendor_usage)) if data.vendor_usage else None,
        data.reported_amount,
        data.reported_currency or None,
    )


def _quantities(usage: dict[str, int | Decimal]) -> str | None:
    if _have_columns(usage):
        return None
    return _encode_json({unit: quantity for unit, quantity in usage.items() if unit not in COLUMN_UNITS}).decode()


def _traced(traceparent: bytes, notes: Mapping[str, str] | None) -> Mapping[str, str] | None:
    trace_id = tracing.trace_id(traceparent)
    return notes if trace_id is None else {**(notes or {}), TRACE_ID: trace_id}


def _attributes(values: tuple[object, ...], is_private: bool, notes: Mapping[str, str]) -> str:
    if is_private:
        values = tuple(default if hidden else value for value, default, hidden in zip(values, *_PRIVACY, strict=True))
    return _encode_json(_Attributes(*values, **notes)).decode()
