"""Of two events with one id: what is the same content, a duplicate, and what an `id_conflict` (docs/publish.md)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meterstream.processors.rating.admit import admit, age_limits
from meterstream.processors.rating.decode import decode_record
from meterstream.schema.event import Event

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
LIMITS = age_limits(int(AT.timestamp() * 1000), is_backfill=False)


def body(members: str, *, time: str = "2026-11-21T10:00:00Z", beside: str = "") -> int:
    """What of an event with these members of `data` is compared."""
    value = (
        '{"specversion":"1.0","type":"meterstream.usage.v1","id":"order/1","source":"s","tenant":"t",'
        f'"time":"{time}",{beside}"data":{{"provider":"p","operation":"chat"{members and ","}{members}}}}}'
    ).encode()
    [(event, original)] = decode_record(value, ())
    assert isinstance(event, Event), event
    return admit(event, original, LIMITS)[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"usage":{"input_tokens":1,"output_tokens":2}', '"usage": {"output_tokens":2.0, "input_tokens":1}'),
        ('"usage":{"seconds":1.5}', '"usage":{"seconds":150e-2}'),
        ('"usage":{"seconds":10}', '"usage":{"seconds":1e1}'),
        ('"usage":{}', ""),
        ('"status":"ok"', ""),
        ('"model":""', ""),
        ('"latency_ms":null', ""),
        ('"vendor_usage":null', ""),
        ('"tags":{"a":"1","b":"2"}', '"tags":{"b":"2","a":"1"}'),
        ('"user_id":"é"', '"user_id":"\\u00e9"'),
    ],
)
def test_written_in_another_way_it_is_the_same_content(one: str, other: str) -> None:
    assert body(one) == body(other)


def test_the_zone_and_what_stands_beside_time_and_data_is_no_content() -> None:
    assert body("") == body("", time="2026-11-21T11:00:00.000+01:00", beside='"traceparent":"x","foo":[1],')


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"latency_ms":812', '"latency_ms":812.0'),
        ('"usage":{"input_tokens":1,"cache_read_tokens":0}', '"usage":{"input_tokens":1}'),
        ('"vendor_usage":{"usage":{"a":1}}', '"vendor_usage":{"usage": {"a":1}}'),
        ('"vendor_usage":{"a":1,"b":1}', '"vendor_usage":{"b":1,"a":1}'),
        (
            '"reported_amount":"1.5","reported_currency":"USD"',
            '"reported_amount":"1.50","reported_currency":"USD"',
        ),
    ],
)
def test_what_the_documentation_calls_another_content_is_one(one: str, other: str) -> None:
    assert body(one) != body(other)


@pytest.mark.parametrize(
    ("members", "stored"),
    [
        (
            '"usage":{"input_tokens":1200,"output_tokens":80},"model":"gpt-4o-mini","latency_ms":812',
            5504534963156679509,
        ),
        ('"usage":{"seconds":1.5},"tags":{"b":"2","a":"1"},"ttft_ms":12.25', -7510981173893571700),
        ('"vendor_usage":{"model": "m", "usage": {"input_tokens": 3}}', 3194319359204488960),
        ('"latency_ms":812.0', -5893838032765736896),
    ],
)
def test_an_event_is_the_same_content_to_every_version(members: str, stored: int) -> None:
    """Claims of 45 days hold it: with another value, what is sent again over an update would be a conflict."""
    assert body(members) == stored
