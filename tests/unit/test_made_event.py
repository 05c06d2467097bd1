"""What a service gives is judged as the rater will judge it, and said in words that help."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterstream.processors.rating.admit import admit, age_limits
from meterstream.processors.rating.decode import decode_event
from meterstream.producers.made_event import MadeEvent, UsageFields, make_event
from meterstream.schema.errors import EventRejected
from meterstream.schema.event import UsageData
from meterstream.schema.ids import id_time_ms
from meterstream.schema.units import UNITS
from meterstream.schema.wire_event import COUNT_MAX

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)


def make(tenant: Any = "acme", provider: Any = "openai", **fields: Any) -> MadeEvent:
    return make_event("shop", tenant, provider, {"operation": "chat", **fields}, event_id="1", time=NOW)


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth - 1):
        found = {"a": found}
    return found


def test_what_is_nested_as_deep_as_may_be_is_taken() -> None:
    assert make(vendor_usage=nested(32))


def test_an_id_may_be_a_uuid_and_is_text_afterwards() -> None:
    given_id: Any = UUID("019a9f5e-7c00-7a1b-8c3d-4e5f60718293")
    assert make_event("shop", "acme", "openai", {"operation": "x"}, event_id=given_id, time=NOW).id == str(given_id)
    for wrong in (7, b"order-7", ""):
        with pytest.raises(EventRejected, match="id"):
            make_event("shop", "acme", "openai", {"operation": "x"}, event_id=wrong, time=NOW)  # type: ignore[arg-type]


def test_every_field_of_the_contract_can_be_given() -> None:
    assert set(UsageFields.__annotations__) | {"provider"} == set(UsageData.model_fields)


def test_an_id_is_made_once_and_carries_its_time() -> None:
    made = [make_event("shop", "acme", "openai", {"operation": "chat"}, event_id=None, time=None) for _ in range(100)]
    assert len({event.id for event in made}) == 100
    assert all(abs((id_time_ms(event.id) or 0) - datetime.now(UTC).timestamp() * 1000) < 60_000 for event in made)
    assert all(event.id.encode() in event.value for event in made)


@pytest.mark.parametrize(
    ("given_quantity", "sent"),
    [(1.5, b"1.5"), (2.0, b"2"), (0.1 + 0.2, b"0.3"), (Decimal("1.25"), b"1.25"), (3, b"3")],
)
def test_fractions_are_rounded_to_what_a_quantity_may_have(given_quantity: Any, sent: bytes) -> None:
    assert b'"audio_seconds":' + sent + b"}" in make(usage={"audio_seconds": given_quantity}).value


def test_none_is_not_given_and_long_free_texts_are_cut() -> None:
    event = decode_event(make(user_id=None, model=None, error="x" * 5000).value)
    assert not isinstance(event, EventRejected)
    assert (event.data.user_id, event.data.error) == ("", "x" * 1024)


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"usage": {"bananas": 1}}, "unknown_unit", "bananas"),
        ({"prompt": "Tell me"}, "unknown_field", "Texts of prompts and answers are never metered"),
        ({"messages": [{"role": "user"}]}, "unknown_field", "never metered"),
        ({"tenant": ""}, "missing_tenant", "whose usage"),
        ({"tenant": None}, "missing_tenant", "whose usage"),
        ({"tenant": 7}, "missing_tenant", "whose usage"),
        ({"tenant": "x" * 129}, "invalid_field", "tenant"),
        ({"tenant": b"acme"}, "missing_tenant", "as text"),
        ({"provider": b"openai"}, "invalid_field", "provider is b'openai'"),
        ({"model": b"gpt"}, "invalid_field", "model is b'gpt'"),
        ({"tags": {"team": b"blue"}}, "invalid_field", "tags: team is b'blue'"),
        ({"vendor_usage": nested(33)}, "nested_too_deep", "32"),
        ({"vendor_usage": nested(5_000)}, "invalid_field", ""),
        ({"usage": {"input_tokens": -1}}, "invalid_quantity", "0 to"),
        ({"usage": {"input_tokens": True}}, "invalid_quantity", "is a number"),
        ({"usage": {"input_tokens": "5"}}, "invalid_quantity", "is a number"),
        ({"usage": {"input_tokens": 1.5}}, "invalid_quantity", "whole"),
        ({"usage": {"audio_seconds": float("nan")}}, "invalid_quantity", "0 to"),
        ({"usage": {"audio_seconds": 1e300}}, "invalid_quantity", "0 to"),
        ({"usage": {"audio_seconds": 0.0000000004}}, "invalid_quantity", "nine decimal places"),
        ({"usage": {"audio_seconds": Decimal("1e-400")}}, "invalid_quantity", "nine decimal places"),
        ({"usage": [1]}, "invalid_quantity", "mapping"),
        ({"usage": {"input_tokens": 1, "cache_read_tokens": 2}}, "subcount_above_total", "sum to 2"),
        ({"operation": None}, "invalid_field", "operation"),
        ({"user_id": "a\nb"}, "control_character", "user_id"),
        ({"error": "a\0b"}, "control_character", "error"),
        ({"tags": {"a": "\0"}}, "control_character", "tags"),
        ({"tags": {"a": 5}}, "invalid_field", "tags"),
        ({"reported_amount": "1.5"}, "invalid_field", "go together"),
        ({"latency_ms": -1}, "invalid_field", "latency_ms"),
        ({"user_id": "\ud800"}, "invalid_field", "surrogate"),
        ({"vendor_usage": {"a": "x" * 20_000}}, "invalid_field", "vendor_usage"),
        ({"user_id": "ü" * 256, "project_id": "ü" * 256, "api_key_id": "漢" * 256, "model": "漢" * 128,
          "provider": "漢" * 128, "operation": "漢" * 128, "tenant": "漢" * 128}, "invalid_field", "one key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_in_words(fields: dict[str, Any], reason: str, words: str) -> None:
    with pytest.raises(EventRejected) as caught:
        make(**fields)
    assert (caught.value.reason, words in caught.value.detail) == (reason, True), caught.value


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(EventRejected, match="time"):
        make_event("shop", "acme", "openai", {"operation": "x"}, event_id=None, time=datetime(2026, 11, 21))  # noqa: DTZ001


texts = st.text(max_size=40)
numbers = st.one_of(
    st.integers(-1, 10**13), st.floats(), st.decimals(), st.booleans(), st.none(), st.fractions(max_denominator=9)
)
json_numbers = numbers.filter(lambda number: not isinstance(number, Fraction))
fields = st.fixed_dictionaries(
    {},
    optional={
        "usage": st.dictionaries(st.sampled_from([*sorted(UNITS), "bananas"]), numbers, max_size=4),
        "model": texts,
        "operation": texts,
        "error": texts,
        "user_id": texts,
        "status": st.sampled_from(["ok", "error", "cancelled", "maybe"]),
        "status_code": st.integers(0, 700),
        "latency_ms": st.one_of(st.floats(), st.integers(-1, 10**10)),
        "retries": st.integers(-1, COUNT_MAX + 1),
        "tags": st.dictionaries(texts, texts, max_size=3),
        "reported_amount": st.sampled_from(["1.5", "-1", "1e5", ""]),
        "reported_currency": st.sampled_from(["USD", "usd", ""]),
        "vendor_usage": st.dictionaries(texts, st.recursive(json_numbers, st.lists)),
        "prompt": texts,
    },
)  # fmt: skip


@given(tenant=texts, given_fields=fields)
def test_what_is_not_refused_here_is_admitted_there(tenant: str, given_fields: dict[str, Any]) -> None:
    try:
        made = make_event("shop", tenant, "openai", given_fields, event_id="1", time=NOW)
    except EventRejected:
        return
    event = decode_event(made.value)
    assert not isinstance(event, EventRejected), event
    admit(event, made.value, age_limits(NOW_MS, is_backfill=False))
