"""The pydantic model and the msgspec struct are one contract: same fields, defaults and bounds."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from meterstream.processors.rating.admit import admit, age_limits
from meterstream.processors.rating.decode import decode_event
from meterstream.processors.rating.rows import ATTRIBUTES
from meterstream.producers.line_check import check_line
from meterstream.producers.lines import Line
from meterstream.producers.made_event import make_event
from meterstream.schema.errors import EventRejected
from meterstream.schema.event import EVENT_TYPE, Data, Event, UsageData, UsageEvent
from meterstream.schema.pack import Row
from meterstream.schema.rejection import REASONS
from meterstream.schema.units import COLUMN_UNITS, PARENTS, ancestors

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "type": EVENT_TYPE,
    "id": "order/1",
    "source": "shop",
    "time": "2026-11-21T10:00:00Z",
    "tenant": "acme",
    "data": {"provider": "openai", "operation": "chat", "usage": {"input_tokens": 5}},
}


def test_same_fields() -> None:
    assert set(UsageData.model_fields) == set(Data.__struct_fields__)
    assert set(UsageEvent.model_fields) == set(Event.__struct_fields__)


def test_same_required_fields() -> None:
    required = {field.name for field in msgspec.structs.fields(Data) if field.required}
    assert required == {name for name, field in UsageData.model_fields.items() if field.is_required()}


def bounds() -> list[tuple[str, Any, bool]]:
    """(field of data, value, is it admitted?) one step each side of every bound, from the JSON Schema."""
    cases: list[tuple[str, Any, bool]] = []
    for name, schema in UsageData.model_json_schema()["properties"].items():
        for part in schema.get("anyOf", [schema]):
            if "maxLength" in part and part.get("pattern", r"\S") == r"\S":
                cases += [(name, "x" * part["maxLength"], True), (name, "x" * (part["maxLength"] + 1), False)]
            if "maximum" in part:
                cases += [(name, int(part["maximum"]), True), (name, int(part["maximum"]) + 1, False)]
            if "minimum" in part:
                cases += [(name, int(part["minimum"]), True), (name, int(part["minimum"]) - 1, False)]
    cases += [
        ("tags", {"k" * 64: "v"}, True),
        ("tags", {"k" * 65: "v"}, False),
        ("tags", {"": "v"}, False),
        ("tags", {"k": "v" * 257}, False),
        ("tags", {f"k{i}": "v" for i in range(32)}, True),
        ("tags", {f"k{i}": "v" for i in range(33)}, False),
        ("status", "maybe", False),
        ("latency_ms", "5", False),
        ("retries", "5", False),
        ("usage", {"input_tokens": 10**12}, True),
        ("usage", {"input_tokens": 10**12 + 1}, False),
        ("usage", {"audio_seconds": 0.000000001}, True),
    ]
    return cases


def test_bounds_are_found() -> None:
    assert len({name for name, _, _ in bounds()}) >= 28, "the JSON Schema no longer shows its bounds"


@pytest.mark.parametrize(("name", "value", "is_admitted"), bounds(), ids=lambda value: str(value)[:24])
def test_same_bounds(name: str, value: Any, is_admitted: bool) -> None:
    event = {**EVENT, "data": {**EVENT["data"], name: value}}
    decoded = decode_event(json.dumps(event).encode())
    assert isinstance(decoded, EventRejected) is not is_admitted, decoded
    if is_admitted:
        UsageEvent.model_validate(event)
    else:
        with pytest.raises(ValidationError):
            UsageEvent.model_validate(event)


@pytest.mark.parametrize("name", ["tenant", "id", "source", "provider"])
@pytest.mark.parametrize("text", ["   ", "\u00a0", "\u2003 \u3000", "  x ", "\u200b"])
def test_what_must_be_said_is_not_blank(name: str, text: str) -> None:
    event = json.loads(json.dumps(EVENT))
    (event["data"] if name == "provider" else event)[name] = text
    value = json.dumps(event, ensure_ascii=False).encode()
    decoded = decode_event(value)
    assert isinstance(decoded, Event)
    limits = age_limits(int(decoded.time.timestamp() * 1000), is_backfill=False)
    problem = check_line(Line(1, 0, value), derive_ids=False).problem
    if text.strip():
        admit(decoded, value, limits)
        assert problem == ""
        return
    with pytest.raises(EventRejected, match=f"{name} holds only blanks") as rejected:
        admit(decoded, value, limits)
    assert rejected.value.reason == ("missing_tenant" if name == "tenant" else "invalid_field")
    assert f"{name}: Value error, holds only blanks" in problem
    texts = {"source": "shop", "tenant": "acme", "provider": "openai", "event_id": "order/1"}
    texts["event_id" if name == "id" else name] = text
    with pytest.raises(EventRejected):
        make_event(fields={"operation": "chat"}, time=None, **texts)


@pytest.mark.parametrize("time", [1700000000, "1700000000", "1700000000.5", "2026-11-21", "yesterday", None, ""])
def test_same_times(time: Any) -> None:
    event = {**EVENT, "time": time}
    assert isinstance(decode_event(json.dumps(event).encode()), EventRejected)
    with pytest.raises(ValidationError):
        UsageEvent.model_validate(event)


@pytest.mark.parametrize(
    "quantity",
    [
        "1e-99999999999999999999", "0e-99999999999999999999", "1e99999999999999999999", "1e-400", "-1e-400", "1e400",
        "1.0000000000000000001", "0.0000000001", "1000000000000.000000001", "0." + "0" * 70,
    ],
)  # fmt: skip
def test_no_quantity_is_rounded_into_one_that_is_admitted(quantity: str) -> None:
    value = json.dumps({**EVENT, "data": {**EVENT["data"], "usage": {"audio_seconds": 77}}}).replace("77", quantity)
    rejected = decode_event(value.encode())
    assert isinstance(rejected, EventRejected) and rejected.reason == "invalid_quantity"
    with pytest.raises(ValidationError):
        UsageEvent.model_validate_json(value)
    assert "data" in check_line(Line(1, 0, value.encode()), derive_ids=False).problem


@pytest.mark.parametrize("quantity", ["7", "7.5"], ids=["the fast path", "the slow one"])
def test_of_a_name_that_is_there_twice_the_last_counts(quantity: str) -> None:
    """docs/publish.md says so; every reader does the same."""
    text = json.dumps(EVENT).replace('"tenant": "acme"', '"tenant": "first", "tenant": "acme"')
    value = text.replace('"input_tokens": 5', f'"audio_seconds": 1, "audio_seconds": {quantity}').encode()
    decoded, event = decode_event(value), UsageEvent.model_validate_json(value)
    assert isinstance(decoded, Event)
    assert (decoded.tenant, event.tenant) == ("acme", "acme")
    assert decoded.data.usage == event.data.usage == {"audio_seconds": Decimal(quantity)}
    assert check_line(Line(1, 0, value), derive_ids=False).key == b"acme"


@pytest.mark.parametrize("quantity", ["1e-9", "123456789012.123456789", "0.000000001", "5.0", "1E3", "-0", "0e400"])
def test_a_quantity_is_taken_as_it_is_written(quantity: str) -> None:
    value = json.dumps({**EVENT, "data": {**EVENT["data"], "usage": {"audio_seconds": 77}}}).replace("77", quantity)
    decoded, event = decode_event(value.encode()), UsageEvent.model_validate_json(value)
    assert isinstance(decoded, Event)
    assert event.data.usage == decoded.data.usage == {"audio_seconds": Decimal(quantity)}
    wire = decode_event(event.to_wire())
    assert isinstance(wire, Event) and wire.data.usage == decoded.data.usage
    assert check_line(Line(1, 0, value.encode()), derive_ids=False).problem == ""


def test_what_is_no_json_for_the_rater_is_none_for_the_model() -> None:
    value = json.dumps({**EVENT, "extension": float("nan")})
    rejected = decode_event(value.encode())
    assert isinstance(rejected, EventRejected) and rejected.reason == "malformed_json"
    with pytest.raises(ValidationError, match="malformed_json"):
        UsageEvent.model_validate_json(value)


def test_every_field_of_data_reaches_the_row() -> None:
    """A new field of the contract must be stored somewhere."""
    elsewhere = {"usage": "quantities", "reported_amount": "reported_amount"}
    for name in Data.__struct_fields__:
        assert name in ATTRIBUTES or elsewhere.get(name, name) in Row.__struct_fields__, name


def test_units_form_a_tree() -> None:
    for unit in PARENTS:
        assert unit not in ancestors(unit)
    assert ancestors("cache_write_1h_tokens") == ("cache_write_tokens", "input_tokens")
    assert set(COLUMN_UNITS) <= set(PARENTS)


def test_reasons_say_what_they_mean() -> None:
    assert all(meaning for meaning in REASONS.values())
