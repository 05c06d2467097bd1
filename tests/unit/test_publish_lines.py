"""Lines of a file: bounded, numbered, and checked in words that say the fix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meterstream.producers.line_check import check_line
from meterstream.producers.lines import Line, LineSplitter
from meterstream.schema.topics import EVENT_BYTES_MAX

GOOD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "call-1",
    "source": "billing-test",
    "type": "meterstream.usage.v1",
    "time": "2026-11-20T10:00:00Z",
    "tenant": "acme",
    "data": {"provider": "openai", "model": "gpt-4o", "operation": "chat", "usage": {"input_tokens": 3}},
}


def line(event: Any, number: int = 1) -> Line:
    content = event if isinstance(event, bytes) else json.dumps(event).encode()
    return Line(number, len(content), content)


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in names}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_do_not_depend_on_how_the_stream_was_cut(size: int) -> None:
    stream = b"one\n\ntwo\r\n" + b"x" * 50 + b"\nlast"
    splitter = LineSplitter()
    lines = [found for start in range(0, len(stream), size) for found in splitter.feed(stream[start : start + size])]
    lines += splitter.finish()
    assert [found.content for found in lines] == [b"one", b"", b"two\r", b"x" * 50, b"last"]
    assert [found.number for found in lines] == [1, 2, 3, 4, 5]
    assert [found.end for found in lines] == [4, 5, 10, 61, 65]


def test_a_stream_that_ends_with_a_newline_has_no_further_line() -> None:
    splitter = LineSplitter()
    assert len(splitter.feed(b"a\n")) == 1
    assert splitter.finish() == []


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_a_line_above_the_bound_is_let_go_and_the_next_is_whole(ending: bytes) -> None:
    splitter = LineSplitter()
    chunk = b"x" * 65536
    lines: list[Line] = []
    held = 0
    for _ in range(40):
        lines += splitter.feed(chunk)
        held = max(held, len(splitter._held))
    lines += splitter.feed(b"\nnext" + ending) + splitter.finish()
    assert held <= EVENT_BYTES_MAX
    assert [(found.number, found.content, found.is_too_long) for found in lines] == [
        (1, b"", True),
        (2, b"next", False),
    ]
    assert lines[0].end == 40 * 65536 + 1


def test_a_line_of_exactly_the_bound_is_kept() -> None:
    splitter = LineSplitter()
    kept, too_long = splitter.feed(b"x" * EVENT_BYTES_MAX + b"\n" + b"x" * (EVENT_BYTES_MAX + 1) + b"\n")
    assert (len(kept.content), kept.is_too_long) == (EVENT_BYTES_MAX, False)
    assert too_long.is_too_long


def test_going_on_in_the_middle_counts_from_there() -> None:
    assert LineSplitter(lines_before=41, bytes_before=1000).feed(b"abc\n") == [Line(42, 1004, b"abc")]


def test_a_good_line_is_sent_as_it_is_under_its_tenant() -> None:
    content = b'  {"tenant" : "acme",  ' + json.dumps(without("tenant")).encode()[1:] + b"  "
    checked = check_line(line(content), derive_ids=False)
    assert checked[:3] == (b"acme", content.strip(), "")


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (without("id"), "--derive-ids"),
        (without("tenant"), "tenant is missing"),
        (without("specversion"), 'add "specversion": "1.0"'),
        (without("type"), 'add "type": "meterstream.usage.v1"'),
        (without("time"), "time is missing"),
        (GOOD | {"time": "2026-11-20T10:00:00"}, "time"),
        (GOOD | {"time": 1_700_000_000}, "time"),
        (GOOD | {"type": "com.example.other"}, "type"),
        (GOOD | {"data": {"provider": "x", "operation": "y", "colour": "blue"}}, "data.colour"),
        (GOOD | {"data": {"provider": "x", "operation": "y", "usage": {"bananas": 1}}}, "bananas"),
        (GOOD | {"data": {"provider": "x", "operation": "y", "usage": {"input_tokens": -1}}}, "input_tokens"),
        (GOOD | {"data": {"provider": "x", "operation": "y", "usage": {"input_tokens": "3"}}}, "input_tokens"),
        (GOOD | {"data": {"provider": "x", "operation": "y", "latency_ms": "fast"}}, "latency_ms"),
        (GOOD | {"data": {"provider": "x", "operation": "y", "latency_ms": "5"}}, "latency_ms"),
        (GOOD | {"time": "1700000000"}, "time"),
        (GOOD | {"data": {"provider": "x"}}, "operation"),
        ([GOOD], "should be an object"),
        (b"{not json", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 10_000, "JSON"),
    ],
)
def test_a_bad_line_says_what_is_wrong(event: Any, says: str) -> None:
    checked = check_line(line(event), derive_ids=False)
    assert says in checked.problem


def test_a_fractional_quantity_is_good() -> None:
    content = b'{"provider":"x","operation":"speech","usage":{"audio_seconds":1.5,"characters":2}}'
    value = json.dumps(GOOD | {"data": "DATA"}).encode().replace(b'"DATA"', content)
    assert check_line(line(value), derive_ids=False)[:3] == (b"acme", value, "")


def test_a_message_is_bounded() -> None:
    assert check_line(line({}), derive_ids=False).problem.endswith("and 2 more")


def test_a_bad_line_keeps_its_key_so_that_it_can_be_sent_all_the_same() -> None:
    checked = check_line(line(without("id")), derive_ids=False)
    assert (checked.key, json.loads(checked.value)) == (b"acme", without("id"))


def test_a_tenant_that_is_too_long_does_not_take_the_room_of_the_value_as_a_key() -> None:
    checked = check_line(line(GOOD | {"tenant": "t" * 200_000}), derive_ids=False)
    assert "tenant" in checked.problem
    assert len(checked.key) == 128


def test_a_derived_id_depends_on_the_content_alone() -> None:
    first, again, other = (
        check_line(line(event, number), derive_ids=True)
        for number, event in enumerate((without("id"), without("id"), without("id") | {"tenant": "other"}), start=1)
    )
    assert first.problem == ""
    assert first == again
    ids = [json.loads(checked.value)["id"] for checked in (first, other)]
    assert ids[0] != ids[1]
    assert json.loads(first.value) == without("id") | {"id": ids[0]}


def test_an_id_that_is_there_is_kept() -> None:
    assert json.loads(check_line(line(GOOD), derive_ids=True).value)["id"] == "call-1"


def test_an_empty_object_with_derived_id_is_still_json() -> None:
    assert set(json.loads(check_line(line(b"{}"), derive_ids=True).value)) == {"id"}
