"""The records of `usage.alerts`: CloudEvents in JSON, structured mode, keyed by tenant.

One alert per (rule, budget version, period, level). Its id is made from exactly that, so an alert that is
sent again, by whomever, has the same id: store it under that, and it counts once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID, uuid5

import msgspec

from meterstream.schema.aggregate import Amount, Moment
from meterstream.schema.errors import RecordUnreadable

ALERT_TYPE: Final = "meterstream.alert.v1"
ALERT_SOURCE: Final = "/meterstream/aggregator"
_UUID: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_NAMESPACE: Final = UUID("6d657465-7273-5472-8561-6d616c657274")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The event that reached the level."""

    event_id: str
    source: str
    source_id: int
    """Number of the source topic, see `topics.yaml`."""
    source_partition: int
    position: int
    """Kafka offset << 20 | place in the array as sent."""


class AlertData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A budget's threshold was reached. Amounts are decimal text of `currency`."""

    rule: Literal["budget"]
    budget: str
    version: int
    tenant: str
    currency: str
    amount: Amount
    """Of the budget."""
    percent: int
    """The level: spent is at or above this many percent of `amount`."""
    threshold: Amount
    """The level as an amount."""
    spent: Amount
    """At that event, in this period."""
    period: Literal["day", "week", "month"]
    time_zone: str
    period_start: Moment
    period_end: Moment
    provisional: bool = False
    """True: events of this period may have come before counting began, or were lost to it: then more was spent."""
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    provider: str | None = None
    model: str | None = None
    place: Place | None = None
    """Null: the level was reached already when this version of the budget was made."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """The CloudEvent. `time`: append time of the event that reached the level."""

    id: Annotated[str, msgspec.Meta(pattern=_UUID)]
    time: Moment
    tenant: str
    data: AlertData
    specversion: Literal["1.0"] = "1.0"
    type: Literal["meterstream.alert.v1"] = ALERT_TYPE
    source: Literal["/meterstream/aggregator"] = ALERT_SOURCE
    datacontenttype: Literal["application/json"] = "application/json"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Alert)


def alert_id(tenant: str, budget: str, version: int, period_start: datetime, percent: int) -> str:
    """The id of an alert (UUIDv5, RFC 9562 §5.5): the same for the same level of the same period, always."""
    name = f"budget\n{tenant}\n{budget}\n{version}\n{period_start:%Y-%m-%dT%H:%M:%SZ}\n{percent}"
    return str(uuid5(_NAMESPACE, name))


def encode_alert(alert: Alert) -> bytes:
    """-> JSON."""
    return _encoder.encode(alert)


def decode_alert(value: bytes) -> Alert:
    """Raises RecordUnreadable."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise RecordUnreadable(f"not an alert: {error}") from error
