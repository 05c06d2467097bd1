"""The ways in which a simulated event or record is broken, each with the reason it must be refused for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple


class EventFault(NamedTuple):
    """`damage` breaks one event in place; its neighbours in an array stay good."""

    reason: str
    damage: Callable[[dict[str, Any]], None]


class RecordFault(NamedTuple):
    """`damage` takes the encoded event and gives the value of a record that cannot be taken apart."""

    reason: str
    damage: Callable[[bytes], bytes]


def _without_id(event: dict[str, Any]) -> None:
    del event["id"]


def _without_tenant(event: dict[str, Any]) -> None:
    del event["tenant"]


def _of_another_type(event: dict[str, Any]) -> None:
    event["type"] = "com.example.heartbeat"


def _with_an_unknown_field(event: dict[str, Any]) -> None:
    event["data"]["colour"] = "blue"


def _with_a_textual_latency(event: dict[str, Any]) -> None:
    event["data"]["latency_ms"] = "fast"


def _with_a_negative_quantity(event: dict[str, Any]) -> None:
    event["data"]["usage"] = {"input_tokens": -1}


def _with_an_unknown_unit(event: dict[str, Any]) -> None:
    event["data"]["usage"] = {"bananas": 1}


def _with_more_cached_than_sent(event: dict[str, Any]) -> None:
    event["data"]["usage"] = {"input_tokens": 1, "cache_read_tokens": 2}


EVENT_FAULTS: Final = (
    EventFault("not_an_event", _without_id),
    EventFault("missing_tenant", _without_tenant),
    EventFault("unknown_type", _of_another_type),
    EventFault("unknown_field", _with_an_unknown_field),
    EventFault("invalid_field", _with_a_textual_latency),
    EventFault("invalid_quantity", _with_a_negative_quantity),
    EventFault("unknown_unit", _with_an_unknown_unit),
    EventFault("subcount_above_total", _with_more_cached_than_sent),
)

RECORD_FAULTS: Final = (
    RecordFault("malformed_json", lambda value: value[: len(value) // 2]),
    RecordFault("malformed_json", lambda value: b"\xff" + value),
    RecordFault("not_an_event", lambda value: b'"' + b"not an object" + b'"'),
    RecordFault("empty_array", lambda value: b"[]"),
)
