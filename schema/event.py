"""The usage event, twice: `UsageEvent` (pydantic, the public face) and `Event` (msgspec, the hot path).

They are two plain definitions on purpose; `tests/unit/test_event_definitions.py` holds them equal over
fields, bounds and examples. Both describe a CloudEvents 1.0 event of type `meterstream.usage.v1`.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from meterstream.schema.units import QUANTITY_MAX, QUANTITY_PLACES_MAX, UNITS, WHOLE_UNITS

EVENT_TYPE: Final = "meterstream.usage.v1"

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

# --------------------------------------------------------------------------- hot path (msgspec)

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


# --------------------------------------------------------------------------- public face (pydantic)

Name = Annotated[str, Field(max_length=NAME_LENGTH_MAX)]
Id = Annotated[str, Field(max_length=ID_LENGTH_MAX)]
Count = Annotated[int, Field(strict=True, ge=0, le=COUNT_MAX)]
Duration = Annotated[float, Field(strict=True, ge=0, le=DURATION_MS_MAX, allow_inf_nan=False)]
Quantity = (
    Annotated[int, Field(strict=True, ge=0, le=QUANTITY_MAX)]
    | Annotated[Decimal, Field(ge=0, le=QUANTITY_MAX, decimal_places=QUANTITY_PLACES_MAX, allow_inf_nan=False)]
)


class UsageData(BaseModel):
    """What was used. At least one of `operation` and `endpoint` says what kind of call it was."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str = Field(
        min_length=1, max_length=NAME_LENGTH_MAX, description="who is paid: openai, anthropic, twilio"
    )
    usage: dict[str, Quantity] = Field(
        default_factory=dict, description="unit -> inclusive total; units: meterstream.schema.units"
    )
    model: Name = Field(default="", description="the model that answered, not the one that was asked for")
    operation: Name = Field(default="", description="chat, embedding, sms, search, ...")
    endpoint: Id = Field(default="", description="path of the API that was called, for calls without a model")
    method: Name = ""
    status_code: Annotated[int, Field(strict=True, ge=100, le=599)] | None = None
    status: Status = "ok"
    error: str = Field(default="", max_length=TEXT_LENGTH_MAX)
    latency_ms: Duration | None = None
    ttft_ms: Duration | None = Field(default=None, description="time to first token")
    retries: Count | None = None
    request_bytes: Count | None = None
    response_bytes: Count | None = None
    user_id: Id = ""
    project_id: Id = ""
    api_key_id: Id = Field(default="", description="an id or prefix of the key, never the key")
    agent_id: Id = ""
    task_id: Id = ""
    conversation_id: Id = ""
    session_id: Id = ""
    message_id: Id = ""
    request_id: Id = ""
    environment: Name = ""
    region: Name = ""
    service_tier: Name = Field(default="", description="standard, batch, flex, priority")
    variant: Name = Field(default="", description="arm of an experiment")
    ip: Name = Field(default="", description="dropped when the tenant's privacy mode is on")
    user_agent: str = Field(default="", max_length=TEXT_LENGTH_MAX, description="dropped as `ip` is")
    reported_amount: str | None = Field(
        default=None,
        max_length=REPORTED_AMOUNT_LENGTH_MAX,
        pattern=r"^\d{1,7}(\.\d{1,12})?$",
        description="what the vendor says it charged: decimal text",
    )
    reported_currency: str = Field(default="", pattern=r"^([A-Z]{3})?$", description="ISO 4217 code of reported_amount")
    tags: dict[
        Annotated[str, Field(min_length=1, max_length=TAG_KEY_LENGTH_MAX)],
        Annotated[str, Field(max_length=ID_LENGTH_MAX)],
    ] = Field(default_factory=dict, max_length=TAGS_MAX)
    vendor_usage: dict[str, Any] | None = Field(
        default=None,
        description="the vendor's answer without its content, or its usage object, verbatim, at most "
        f"{VENDOR_USAGE_BYTES_MAX} bytes of JSON; it is read where there is no `usage`",
    )

    @field_validator("usage", mode="before")
    @classmethod
    def _quantities_are_numbers(cls, usage: Any) -> Any:
        """Neither text nor truth values, which pydantic would turn into numbers."""
        if isinstance(usage, dict):
            for unit, quantity in usage.items():
                if isinstance(quantity, bool | str | bytes):
                    raise ValueError(f"{unit} is {quantity!r}; a quantity is a number")
        return usage

    @field_validator("usage")
    @classmethod
    def _counts_are_whole(cls, usage: dict[str, Any]) -> dict[str, Any]:
        for unit, quantity in usage.items():
            if unit in WHOLE_UNITS and quantity % 1:
                raise ValueError(f"{unit} is {quantity}; it is counted in whole numbers")
        return usage

    @field_validator("usage")
    @classmethod
    def _units_are_known(cls, usage: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(usage) - UNITS)
        if unknown:
            raise ValueError(f"unknown unit(s) {', '.join(unknown[:3])}; known: {', '.join(sorted(UNITS))}")
        return usage

    @model_validator(mode="after")
    def _says_what_it_was(self) -> UsageData:
        if not self.operation and not self.endpoint:
            raise ValueError("give an operation (chat, embedding, sms, ...) or an endpoint")
        if (self.reported_amount is None) != (self.reported_currency == ""):
            raise ValueError("reported_amount and reported_currency go together")
        return self


_encode_wire = msgspec.json.Encoder(decimal_format="number").encode


class UsageEvent(BaseModel):
    """One call that costs money: a CloudEvents 1.0 event of type `meterstream.usage.v1`.

    `id` is made where the call is made and kept over every retry; (tenant, source, id) counts once.
    `time` is when the call ended; `tenant` is who pays for it. Raises pydantic.ValidationError.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1, max_length=NAME_LENGTH_MAX, description="UUIDv7 recommended")
    source: str = Field(min_length=1, max_length=ID_LENGTH_MAX, description="the service that publishes")
    type: Literal["meterstream.usage.v1"] = "meterstream.usage.v1"
    time: AwareDatetime
    tenant: str = Field(min_length=1, max_length=NAME_LENGTH_MAX)
    data: UsageData
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: str | None = "application/json"

    @field_validator("time", mode="before")
    @classmethod
    def _time_is_no_number(cls, time: Any) -> Any:
        if isinstance(time, int | float) or (isinstance(time, str) and "-" not in time[1:]):
            raise ValueError("time is RFC 3339 text with a zone, such as 2026-11-21T10:00:00Z")
        return time

    @model_validator(mode="after")
    def _key_is_not_too_long(self) -> UsageEvent:
        size = key_bytes(self.tenant, self.data)
        if size > KEY_BYTES_MAX:
            raise ValueError(key_too_long(size))
        return self

    def to_wire(self) -> bytes:
        """The record value in structured mode (`content-type: application/cloudevents+json`)."""
        wire: bytes = _encode_wire(self.model_dump(mode="python", exclude_none=True))
        return wire


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
