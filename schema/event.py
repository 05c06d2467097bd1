"""The usage event, twice: `UsageEvent` (pydantic, the public face) and `Event` (msgspec, the hot path: `wire_event`).

They are two plain definitions on purpose; `tests/unit/test_event_definitions.py` holds them equal over
fields, bounds and examples. Both describe a CloudEvents 1.0 event of type `meterstream.usage.v1`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from meterstream.schema.errors import EventRejected
from meterstream.schema.quantity import parse_usage
from meterstream.schema.units import QUANTITY_MAX, QUANTITY_PLACES_MAX, UNITS, WHOLE_UNITS
from meterstream.schema.wire_event import (
    COUNT_MAX,
    DURATION_MS_MAX,
    EVENT_TYPE,
    ID_LENGTH_MAX,
    KEY_BYTES_MAX,
    NAME_LENGTH_MAX,
    REPORTED_AMOUNT_LENGTH_MAX,
    TAG_KEY_LENGTH_MAX,
    TAGS_MAX,
    TEXT_LENGTH_MAX,
    VENDOR_USAGE_BYTES_MAX,
    VENDOR_USAGE_DEPTH_MAX,
    Data,
    Event,
    Status,
    key_bytes,
    key_too_long,
)

__all__ = [
    "EVENT_TYPE",
    "KEY_BYTES_MAX",
    "NAME_LENGTH_MAX",
    "VENDOR_USAGE_BYTES_MAX",
    "VENDOR_USAGE_DEPTH_MAX",
    "Data",
    "Event",
    "UsageData",
    "UsageEvent",
    "key_bytes",
    "key_too_long",
]


def _says_something(text: str) -> str:
    if text.isspace():
        raise ValueError("holds only blanks")
    return text


NotBlank = Annotated[str, AfterValidator(_says_something), Field(json_schema_extra={"pattern": r"\S"})]
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

    provider: NotBlank = Field(
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
    operation_id: Id = Field(default="", description="what retries and fallbacks of one wish have in common")
    attempt: Annotated[int, Field(strict=True, ge=1, le=COUNT_MAX)] | None = Field(
        default=None, description="1 for the first call of an operation"
    )
    estimated: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="the quantities are the service's estimate: the final ones never came"
    )
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
        description="the vendor's answer without its content, or its usage object, of which only the usage is stored, "
        f"at most {VENDOR_USAGE_BYTES_MAX} bytes of JSON; it is read where there is no `usage`",
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


class _UsageText(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"{}")


class _EventText(msgspec.Struct):
    data: _UsageText


_decode_text = msgspec.json.Decoder(_EventText).decode
_encode_wire = msgspec.json.Encoder(decimal_format="number").encode


class UsageEvent(BaseModel):
    """One call that costs money: a CloudEvents 1.0 event of type `meterstream.usage.v1`.

    `id` is made where the call is made and kept over every retry; (tenant, source, id) counts once.
    `time` is when the call ended; `tenant` is who pays for it. Raises pydantic.ValidationError.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: NotBlank = Field(min_length=1, max_length=NAME_LENGTH_MAX, description="UUIDv7 recommended")
    source: NotBlank = Field(min_length=1, max_length=ID_LENGTH_MAX, description="the service that publishes")
    type: Literal["meterstream.usage.v1"] = "meterstream.usage.v1"
    time: AwareDatetime
    tenant: NotBlank = Field(min_length=1, max_length=NAME_LENGTH_MAX)
    data: UsageData
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: str | None = "application/json"
    traceparent: Any = Field(
        default=None,
        description="W3C context of the span in which the call was made (CloudEvents' distributed tracing); what is "
        "none is ignored",
    )

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

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """As pydantic's, but for quantities, which are taken as they are written and never become floats."""
        event = super().model_validate_json(json_data, **options)
        try:
            usage = parse_usage(bytes(_decode_text(json_data).data.usage))
        except EventRejected as rejected:
            raise _invalid(rejected.reason, rejected.detail) from rejected
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # pydantic takes NaN for JSON
            raise _invalid("malformed_json", str(error)) from error
        if not usage:
            return event
        return event.model_copy(update={"data": event.data.model_copy(update={"usage": usage})})

    def to_wire(self) -> bytes:
        """The record value in structured mode (`content-type: application/cloudevents+json`)."""
        wire: bytes = _encode_wire(self.model_dump(mode="python", exclude_none=True))
        return wire


def _invalid(reason: str, detail: str) -> ValidationError:
    error = PydanticCustomError("usage_event", "{reason}: {detail}", {"reason": reason, "detail": detail})
    return ValidationError.from_exception_data("UsageEvent", [InitErrorDetails(type=error, loc=("data",), input=None)])
