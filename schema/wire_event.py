"""The usage event on the hot path (msgspec), and the bounds of its fields. `event.py` has its public face.

A module of its own so that a service that only publishes does not load pydantic.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from meterstream.schema.units import QUANTITY_MAX

if TYPE_CHECKING:
    from meterstream.schema.event import UsageData

EVENT_TYPE: Final = "meterstream.usage.v1"
AGE_MAX: Final = timedelta(days=35)
"""What is older when it arrives is rejected from `usage.raw`; `usage.backfill` takes it."""

NAME_LENGTH_MAX: Final = 128
ID_LENGTH_MAX: Final = 256
TEXT_LENGTH_MAX: Final = 1024
TAGS_MAX: Final = 32
TAG_KEY_LENGTH_MAX: Final = 64
COUNT_MAX: Final = 2**53 - 1
DURATION_MS_MAX: Final = 10**9
VENDOR_USAGE_BYTES_MAX: Final = 16 * 1024
VENDOR_USAGE_DEPTH_MAX: Final = 32
REPORTED_AMOUNT_LENGTH_MAX: Final = 32
KEY_BYTES_MAX: Final = 2400
"""What a rollup's key may have in UTF-8, all its texts together: an entry of a Postgres index ends at 2,704 bytes."""

Status = Literal["ok", "error", "cancelled"]

_Name = Annotated[str, msgspec.Meta(max_length=NAME_LENGTH_MAX)]
_Id = Annotated[str, msgspec.Meta(max_length=ID_LENGTH_MAX)]
_RequiredName = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
_RequiredId = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH_MAX)]
_Text = Annotated[str, msgspec.Meta(max_length=TEXT_LENGTH_MAX)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
_Duration = (
    Annotated[int, msgspec.Meta(ge=0, le=DURATION_MS_MAX)] | Annotated[float, msgspec.Meta(ge=0, le=DURATION_MS_MAX)]
)
_TagKey = Annotated[str, msgspec.Meta(min_length=1, max_length=TAG_KEY_LENGTH_MAX)]


_Quantity = Annotated[int, msgspec.Meta(ge=0, le=QUANTITY_MAX)] | Decimal


class Data(msgspec.Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """The `data` of an event on the hot path.

    msgspec lets a JSON string through as a Decimal, so the rater looks again at every quantity that is
    not an int (`processors/rating/decode.py`).
    """

    provider: _RequiredName
    usage: dict[str, _Quantity] = {}
    model: _Name = ""
    operation: _Name = ""
    endpoint: _Id = ""
    method: _Name = ""
    status_code: Annotated[int, msgspec.Meta(ge=100, le=599)] | None = None
    status: Status = "ok"
    error: _Text = ""
    latency_ms: _Duration | None = None
    ttft_ms: _Duration | None = None
    retries: _Count | None = None
    request_bytes: _Count | None = None
    response_bytes: _Count | None = None
    user_id: _Id = ""
    project_id: _Id = ""
    api_key_id: _Id = ""
    agent_id: _Id = ""
    task_id: _Id = ""
    conversation_id: _Id = ""
    session_id: _Id = ""
    message_id: _Id = ""
    request_id: _Id = ""
    operation_id: _Id = ""
    attempt: Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)] | None = None
    estimated: bool = False
    environment: _Name = ""
    region: _Name = ""
    service_tier: _Name = ""
    variant: _Name = ""
    ip: _Name = ""
    user_agent: _Text = ""
    reported_amount: Annotated[str, msgspec.Meta(max_length=REPORTED_AMOUNT_LENGTH_MAX)] | None = None
    reported_currency: _Name = ""
    tags: Annotated[
        dict[_TagKey, Annotated[str, msgspec.Meta(max_length=ID_LENGTH_MAX)]], msgspec.Meta(max_length=TAGS_MAX)
    ] = {}
    vendor_usage: msgspec.Raw = msgspec.Raw()


class Event(msgspec.Struct, gc=False):
    """A CloudEvents envelope on the hot path. Extension attributes that we do not know are ignored."""

    id: _RequiredName
    source: _RequiredId
    type: _RequiredName
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    tenant: _RequiredName
    data: Data
    specversion: Literal["1.0"]
    datacontenttype: str | None = None
    traceparent: msgspec.Raw = msgspec.Raw()
    """Anything: what is no context of a trace is no reason to refuse a charge. See meterstream.schema.tracing."""


def blank_text(event: Event) -> str | None:
    """The name of a required text that holds nothing but blanks; None: each says something."""
    if event.tenant.isspace() or event.id.isspace() or event.source.isspace() or event.data.provider.isspace():
        texts = {"tenant": event.tenant, "id": event.id, "source": event.source, "provider": event.data.provider}
        return next(name for name, text in texts.items() if text.isspace())
    return None


def key_bytes(tenant: str, data: Data | UsageData) -> int:
    """How many bytes the texts of an event's rollup key have in UTF-8."""
    parts = (tenant, data.provider, data.model, data.operation, data.project_id, data.user_id, data.api_key_id)
    return sum(len(part.encode("utf-8", "replace")) for part in parts)


def key_too_long(size: int) -> str:
    """What to say of a key of so many bytes."""
    return (
        "tenant, provider, model, operation, project_id, user_id and api_key_id are one key: together they have "
        f"{size} bytes in UTF-8, at most {KEY_BYTES_MAX}"
    )


def is_nested_too_deep(vendor_usage: bytes) -> bool:
    """Of well-formed JSON."""
    if vendor_usage.count(b"{") + vendor_usage.count(b"[") <= VENDOR_USAGE_DEPTH_MAX:
        return False  # fewer brackets than that cannot be nested deeper
    try:
        level = [msgspec.json.decode(vendor_usage)]
    except RecursionError:
        return True
    for _ in range(VENDOR_USAGE_DEPTH_MAX):
        level = [child for node in level for child in _children(node)]
    return bool(level)


def _children(node: object) -> list[object]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
