"""The model itself, against cases worked out by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from tests.oracle.compare import Found, compare
from tests.oracle.model import Expected, Place, SplitIdentity, expect
from tests.oracle.prices import PriceRow, Prices
from tests.oracle.records import RawRecord

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)
YEAR_START = datetime(2026, 1, 1, tzinfo=UTC)


def row(unit: str, rate: str, **changes: Any) -> PriceRow:
    fields = {"tenant": None, "provider": "p", "model": "m", "currency": "USD", "per": 10**6, "revision": 1}
    return PriceRow(**{**fields, "valid_from": YEAR_START, "unit": unit, "rate": Fraction(rate), **changes})


PRICES = Prices(
    [
        row("input_tokens", "2.50"),
        row("cache_read_tokens", "1.25"),
        row("output_tokens", "10"),
        row("input_tokens", "5", valid_from=NOON, revision=2),
        row("input_tokens", "1", tenant="own"),
    ]
)


def event(event_id: str = "e1", tenant: str = "t", time: datetime = NOON, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": "meterstream.usage.v1",
        "id": event_id,
        "source": "s",
        "tenant": tenant,
        "time": time.isoformat(),
        "data": {"provider": "p", "model": "m", "operation": "chat", "usage": {"input_tokens": 1000}, **data},
    }


def body(vendor_usage: dict[str, Any], **data: Any) -> dict[str, Any]:
    """An event that brings its vendor's words instead of quantities."""
    return event(usage={}, vendor_usage=vendor_usage, **data)


def record(value: Any, offset: int = 0, partition: int = 0, topic: str = "usage.raw") -> RawRecord:
    encoded = value if isinstance(value, bytes) else json.dumps(value).encode()
    return RawRecord(topic, partition, offset, NOON_MS, encoded)


def only_line(value: dict[str, Any]) -> tuple[str, Fraction | None]:
    (line,) = expect([record(value)], PRICES).ledger.values()
    return line.currency, line.amount


@pytest.mark.parametrize(
    ("given", "currency", "amount"),
    [
        (event(), "USD", Fraction(5, 1000)),
        (event(time=NOON - timedelta(microseconds=1)), "USD", Fraction(25, 10000)),
        (event(tenant="own"), "USD", Fraction(1, 1000)),
        # 600 at 5 and 400 of them cached at 1.25, per million: each token on one line
        (event(usage={"input_tokens": 1000, "cache_read_tokens": 400}), "USD", Fraction(35, 10000)),
        # no price of their own: paid within the total
        (event(usage={"input_tokens": 10, "input_audio_tokens": 4}), "USD", Fraction(5, 100000)),
        (event(usage={"characters": 1}), "XXX", None),
        (event(usage={"input_tokens": 1000, "characters": 0}), "USD", Fraction(5, 1000)),
        (event(model="other"), "XXX", None),
        (body({"prompt_tokens": 1000, "completion_tokens": 0}), "USD", Fraction(5, 1000)),
        (body({"prompt_tokens": 1000, "total_tokens": 1100}), "USD", Fraction(6, 1000)),
        (body({"prompt_tokens": 1000, "completion_tokens": 0, "total_tokens": 1100}), "XXX", None),
        (
            body({"model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, model="asked"),
            "USD",
            Fraction(15, 10**6),
        ),
        (body({"tokens": 5}), "XXX", None),
        (
            body({"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}),
            "XXX",
            None,
        ),
    ],
)
def test_a_charge(given: dict[str, Any], currency: str, amount: Fraction | None) -> None:
    assert only_line(given) == (currency, amount)


def test_each_line_is_rounded_half_to_even_by_itself() -> None:
    prices = Prices([row("input_tokens", "0.0000005", per=10**6), row("output_tokens", "0.0000015", per=10**6)])
    given = event(usage={"input_tokens": 1, "output_tokens": 1})
    (line,) = expect([record(given)], prices).ledger.values()
    assert line.amount == Fraction(0 + 2, 10**12)  # 0.5 -> 0 and 1.5 -> 2


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (b"{", "unreadable"),
        (b"[]", "unreadable"),
        (b'{"a": NaN}', "unreadable"),
        (b"3", "invalid"),
        (event(usage={"input_tokens": -1}), "invalid"),
        (event(usage={"input_tokens": True}), "invalid"),
        (event(usage={"tokens": 1}), "invalid"),
        (event(usage={"input_tokens": 3, "cache_read_tokens": 4}), "invalid"),
        (event(extra=1), "invalid"),
        (event(tenant=""), "invalid"),
        (event(time=NOON - timedelta(days=35, microseconds=1)), "time"),
        (event(time=NOON + timedelta(minutes=5, microseconds=1)), "time"),
        (event("019b0000-0000-7000-8000-000000000000", time=NOON, usage={"input_tokens": 1}), None),
        (event("01900000-0000-7000-8000-000000000000"), "time"),
        (event(usage={"input_tokens": 10**12}), "amount"),
    ],
)
def test_what_is_refused(value: Any, rule: str | None) -> None:
    assert list(expect([record(value)], PRICES).rejected.values()) == ([rule] if rule else [])


def test_the_first_of_an_id_counts_and_an_array_has_a_position_per_event() -> None:
    other_body = event("e1", usage={"input_tokens": 7})
    expected = expect(
        [record([event("e1"), b"no object".decode(), event("e2")]), record(event("e1"), 1), record(other_body, 2)],
        PRICES,
    )
    assert {place.position: line.event_id for place, line in expected.ledger.items()} == {0: "e1", 2: "e2"}
    assert expected.duplicates == {Place(1, 0, 1 << 20)}
    assert expected.rejected == {Place(1, 0, 1): "invalid", Place(1, 0, 2 << 20): "conflict"}
    (hour,) = expected.hourly.values()
    assert (hour.events, hour.amount, int(hour.units["input_tokens"])) == (2, Fraction(1, 100), 2000)


def test_backfill_takes_ten_years_but_ids_keep_their_limit() -> None:
    old = NOON - timedelta(days=400)
    microsecond = timedelta(microseconds=1)
    expected = expect(
        [
            record(event("plain", time=old), topic="usage.backfill"),
            record(event("01900000-0000-7000-8000-000000000000", time=old), 1, topic="usage.backfill"),
            record(event("oldest", time=NOON - timedelta(days=3653)), 2, topic="usage.backfill"),
            record(event("older", time=NOON - timedelta(days=3653) - microsecond), 3, topic="usage.backfill"),
            record(event("newer", time=NOON + timedelta(minutes=5) + microsecond), 4, topic="usage.backfill"),
        ],
        PRICES,
    )
    assert [line.event_id for line in expected.ledger.values()] == ["plain", "oldest"]
    assert list(expected.rejected.values()) == ["time"] * 3


def test_an_id_in_two_partitions_has_no_order() -> None:
    with pytest.raises(SplitIdentity):
        expect([record(event()), record(event(), partition=1)], PRICES)


def test_the_comparison_names_every_difference() -> None:
    expected = expect([record(event()), record(event(), 1), record(b"{", 2)], PRICES)
    assert compare(expected, _as_found(expected)) == []
    ((place, line),) = expected.ledger.items()
    found = _as_found(expected)
    found.ledger.append((place, line))
    found.duplicates.clear()
    found.rejected[0] = (found.rejected[0][0], "too_old")
    found.hourly.clear()
    found.daily[("t", "another key")] = expected.daily[next(iter(expected.daily))]
    tables = [difference.split(":")[0] for difference in compare(expected, found)]
    assert tables == ["ledger", "duplicates", "rejected", "hourly", "daily"]


def _as_found(expected: Expected) -> Found:
    reasons = {"unreadable": "malformed_json"}
    return Found(
        ledger=list(expected.ledger.items()),
        duplicates=list(expected.duplicates),
        rejected=[(place, reasons[rule]) for place, rule in expected.rejected.items()],
        hourly=dict(expected.hourly),
        daily=dict(expected.daily),
    )
