"""A fault of the rater's own while it decides one event costs that event a replay, and nobody else anything."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from meterstream.processors.rating import decode, price, rater, vendors
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.faults import KINDS_MAX, Faults, internal_error
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.schema import cloudevents, pack
from meterstream.schema.catalog import Price
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.pack import PACK_BYTES_MAX, Pack, Row, decode_pack
from meterstream.schema.position import SourcePartition, position_of
from meterstream.schema.rejection import Rejected, decode_rejected

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
POISON = "poison"
SECRET = "a piece of the event"
BODY = {"id": "x", "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
PRICES = [
    Price(
        price_id=number, revision=1, provider="p", model="m", unit=unit, currency="USD", per=1, rate="2",
        valid_from=datetime(2020, 1, 1, tzinfo=UTC), known_from=AT, source="test",
    )
    for number, unit in enumerate(("input_tokens", "output_tokens"))
]  # fmt: skip


def event(event_id: str, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0", "type": "meterstream.usage.v1", "id": event_id, "source": "shop", "tenant": "acme",
        "time": AT.isoformat(),
        "data": {"provider": "p", "model": "m", "operation": "chat", "usage": {"output_tokens": 5}} | data,
    }  # fmt: skip


def encoded(*events: dict[str, Any]) -> list[bytes]:
    return [json.dumps(each).encode() for each in events]


class Run:
    """One life of a rater over these values, and what it has sent."""

    def __init__(
        self,
        values: Sequence[bytes],
        *,
        headers: Sequence[tuple[str, bytes]] = STRUCTURED_HEADERS,
        private: frozenset[str] = frozenset(),
    ) -> None:
        self.rater = Rater(Router(1), Book(PRICES, 1), private)
        outbox = Outbox(SourcePartition(1, 0), start_offset=0, priced=1, rejected=1)
        records: list[Any] = [
            SimpleNamespace(offset=i, timestamp=int(AT.timestamp() * 1000), key=None, value=value, headers=headers)
            for i, value in enumerate(values)
        ]
        self.rater.rate("usage.raw", outbox, records, is_backfill=False)
        sent = outbox.cut(0)
        self.sizes = [len(each.value) for each in sent]
        self.packs: list[Pack] = [decode_pack(each.value) for each in sent]
        self.rows: list[Row] = [row for each in self.packs for row in each.rows]
        self.rejected: list[Rejected] = [decode_rejected(each.value) for each in outbox.take_rejected()]


def failing(function: Callable[..., Any], is_poison: Callable[..., bool], fault: Exception) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **options: Any) -> Any:
        if is_poison(*arguments, **options):
            raise fault
        return function(*arguments, **options)

    return wrapper


def of_poison(first: Any, *_: Any, **__: Any) -> bool:
    """Of what the first argument is: bytes or an event."""
    return POISON.encode() in first if isinstance(first, bytes) else first.id == POISON


def used_13(usage: dict[str, int], *_: Any) -> bool:
    return usage == {"output_tokens": 13}


FAULTS: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "decoding": (decode, "_decode_event", of_poison),
    "admission": (rater, "admit", of_poison),
    "a vendor's body": (rater, "read_body", of_poison),
    "the price": (rater, "charge", used_13),
    "the row": (rater, "make_row", of_poison),
}


@pytest.mark.parametrize("place", FAULTS)
@pytest.mark.parametrize("is_array", [False, True])
def test_the_event_is_rejected_and_replayed_and_its_neighbours_are_charged(
    place: str, is_array: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = event(POISON, usage={"output_tokens": 13})
    if place == "a vendor's body":
        bad = event(POISON, usage={}, vendor_usage=BODY)
    events = [event("before"), bad, event("after")]
    values = [json.dumps(events).encode()] if is_array else encoded(*events)
    module, name, is_poison = FAULTS[place]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(getattr(module, name), is_poison, KeyError(SECRET)))
        run = Run(values)
    assert [(row.event_id, row.amount_pico) for row in run.rows] == [("before", 10 * 10**12), ("after", 10 * 10**12)]
    assert run.rater.dispositions == {"priced": 2, "internal_error": 1}
    [rejected] = run.rejected
    assert (rejected.reason, rejected.tenant, rejected.event_id) == ("internal_error", "acme", POISON)
    assert rejected.position == (position_of(0, 1) if is_array else position_of(1))
    assert "KeyError in tests.unit.test_faults:" in rejected.detail and SECRET not in rejected.detail
    assert "1 events met a fault of the rater" in (run.rater.faults.reason or "")

    original = base64.b64decode(rejected.value)
    assert json.loads(original) == bad
    mended = Run([original])
    assert [row.event_id for row in mended.rows] == [POISON] and not mended.rejected
    assert mended.rows[0].amount_pico == (10 if place == "a vendor's body" else 26) * 10**12
    assert mended.rater.faults.reason is None


def test_a_fault_in_a_reader_is_no_vendors_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unmetered says that a body has no shape that is known; a reader that fails says nothing of the body."""

    def broken(_: Any) -> Any:
        raise IndexError

    monkeypatch.setattr(vendors, "_READERS", (broken,))
    run = Run(encoded(event("a", usage={}, vendor_usage=BODY), event("b")))
    assert run.rater.dispositions == {"internal_error": 1, "priced": 1}


def test_a_fault_in_the_headers_costs_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = (("content-type", b"application/cloudevents+json; charset=utf-8"),)
    assert len(Run(encoded(event("a")), headers=headers).rows) == 1

    def broken(_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(cloudevents, "media_type", broken)
    run = Run(encoded(event("a"), event("b")), headers=headers)
    assert [each.reason for each in run.rejected] == ["internal_error", "internal_error"]
    assert [json.loads(base64.b64decode(each.value))["id"] for each in run.rejected] == ["a", "b"]


def test_a_row_that_no_pack_can_hold_is_a_fault_of_its_event_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PRICED", 1 << 70)  # such a number ends the encoder
    run = Run(encoded(event("a"), event("b", model="without a price")))
    assert [each.event_id for each in run.rejected] == ["a"]
    assert "OverflowError" in run.rejected[0].detail
    assert [row.event_id for row in run.rows] == ["b"]


@pytest.mark.parametrize("private", [frozenset(), frozenset({"quiet"})])
def test_a_fault_while_a_bad_event_is_taken_apart_keeps_its_reason(
    private: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError

    monkeypatch.setattr(rater, "said", broken)
    run = Run([b"{broken", *encoded(event("a"))], private=private)
    assert len(run.rows) == 1
    [rejected] = run.rejected
    assert rejected.reason == "malformed_json"
    assert rejected.is_withheld is bool(private), "it may be anybody's"
    assert run.rater.faults.reason is not None


def test_no_memory_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((rater, "charge"), (decode, "_decode_event"), (rater, "said")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing(getattr(module, name), lambda *_: True, MemoryError()))
            with pytest.raises(MemoryError):
                Run([*encoded(event("a")), b"{broken"])


@pytest.mark.parametrize("private", [frozenset(), frozenset({"quiet"})])
def test_each_kind_is_logged_with_its_traceback_and_then_rarely(
    private: frozenset[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rater, "charge", failing(price.charge, lambda *_: True, KeyError(SECRET)))
    with caplog.at_level(logging.ERROR):
        run = Run(encoded(*(event(f"e{number}") for number in range(120))), private=private)
    assert len(run.rejected) == 120
    assert [record.message.splitlines()[0].rpartition(", ")[2] for record in caplog.records] == [
        "number 1", "number 10", "number 100",
    ]  # fmt: skip
    assert caplog.records[0].message.startswith("usage.raw/0/0/0 is rejected")
    assert "in wrapper" in caplog.text, "the traceback"
    assert (SECRET in caplog.text) is not bool(private)


def test_what_is_remembered_of_faults_is_bounded() -> None:
    faults = Faults()
    for number in range(KINDS_MAX + 50):
        fault = type(f"Fault{number}", (Exception,), {})()
        faults.note(internal_error(fault).__cause__, "usage.raw/0/0/0", is_private=False)
    assert len(faults._kinds) == KINDS_MAX + 1
    assert f"{KINDS_MAX + 50} events" in (faults.reason or "")


def test_rows_of_any_size_fit_into_records() -> None:
    """300 answers of 14 kB are more than a record of `usage.priced` may have."""
    large = {"usage": {f"count_{number:05}": 1000 for number in range(750)}}
    bodies = [event(f"e{number}", vendor_usage=large) for number in range(700)]
    run = Run(encoded(*bodies))
    assert [row.event_id for row in run.rows] == [each["id"] for each in bodies]
    assert all(size < PACK_BYTES_MAX + 1_000 for size in run.sizes) and len(run.sizes) == 4
    assert [each.lo for each in run.packs] == [0, *(each.hi + 1 for each in run.packs[:-1])]
    assert run.packs[-1].hi == position_of(700) - 1
