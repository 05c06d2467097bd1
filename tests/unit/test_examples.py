"""Every golden example goes through the rater's core and ends as it says."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from meterstream.processors.rating.book import Book
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.schema import topics
from meterstream.schema.catalog import Price
from meterstream.schema.event import UsageEvent
from meterstream.schema.position import SourcePartition, split_position
from meterstream.schema.rejection import PAYLOAD_BYTES_MAX, REASONS

EXAMPLES = Path(__file__).parents[2] / "schema" / "examples"
VALID = sorted((EXAMPLES / "valid").glob("*.json"))
INVALID = sorted((EXAMPLES / "invalid").glob("*.json"))
STRUCTURED = [path for path in VALID if "ce_type" not in json.loads(path.read_text())["headers"]]
"""Binary mode has no envelope in its value."""
YEAR_2020 = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def load(path: Path) -> tuple[dict[str, Any], Record]:
    example = json.loads(path.read_text())
    if "value_base64" in example:
        value: bytes | None = base64.b64decode(example["value_base64"])
    elif "value_text" in example:
        value = example["value_text"].encode()
    else:
        value = None if example["value"] is None else json.dumps(example["value"]).encode()
    appended_ms = int(datetime.fromisoformat(example["appended_at"]).timestamp() * 1000)
    headers = tuple((name, text.encode()) for name, text in example["headers"].items())
    return example, Record(7, appended_ms, b"key", value, headers)


def make_rater() -> Rater:
    def price(number: int, unit: str, rate: str) -> Price:
        return Price(
            price_id=number,
            revision=1,
            provider="openai",
            model="gpt-4o",
            unit=unit,
            currency="USD",
            per=1_000_000,
            rate=rate,
            valid_from=YEAR_2020,
            known_from=YEAR_2020,
            source="test",
        )

    return Rater(Router(16), Book([price(1, "input_tokens", "2.5"), price(2, "output_tokens", "10")], 1))


def dispositions(path: Path) -> tuple[dict[str, Any], Record, list[str], Outbox]:
    example, record = load(path)
    rater = make_rater()
    outbox = Outbox(SourcePartition(1, 0), start_offset=7, priced=16, rejected=4)
    rater.rate(example["topic"], outbox, [record], is_backfill=example["topic"] == topics.BACKFILL)
    found: dict[int, str] = {}
    for partition in sorted(outbox.waiting):
        for position in outbox._positions[partition]:
            found[split_position(position)[1]] = "accepted"
    for rejected in outbox.rejected:
        assert split_position(rejected.position)[0] == 7
        found[split_position(rejected.position)[1]] = rejected.reason
    assert sorted(found) == list(range(len(found))), "every event has exactly one disposition"
    return example, record, [found[index] for index in sorted(found)], outbox


@pytest.mark.parametrize("path", VALID + INVALID, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_example_ends_as_it_says(path: Path) -> None:
    example, record, found, outbox = dispositions(path)
    assert found == example["expect"]
    for rejected in outbox.rejected:
        kept = base64.b64decode(rejected.value)
        assert record.value is None or kept in record.value, "the original bytes are kept"
        assert len(kept) == min(rejected.value_length, PAYLOAD_BYTES_MAX)


def test_bad_records_leave_their_neighbours_untouched() -> None:
    """All that is invalid in one batch, each record between good ones."""
    good, *_ = (load(path)[1] for path in VALID if path.stem == "chat_full")
    assert good.value is not None
    records: list[Record] = []
    expected: list[str] = []
    for path in INVALID:
        example, bad = load(path)
        if example["topic"] == topics.RAW:
            value = good.value.replace(b'"shop/checkout-bot"', json.dumps(f"shop/{path.stem}").encode())
            records += [replace(bad, offset=len(records)), replace(good, offset=len(records) + 1, value=value)]
            expected += [*example["expect"], "accepted"]
    rater = make_rater()
    outbox = Outbox(SourcePartition(1, 0), start_offset=0, priced=16, rejected=4)
    rater.rate(topics.RAW, outbox, records, is_backfill=False)
    assert len(records) > 100
    assert Counter(rejected.reason for rejected in outbox.rejected) == Counter(expected) - Counter(
        accepted=expected.count("accepted")
    )
    assert sum(len(outbox._rows[partition]) for partition in outbox.waiting) == expected.count("accepted")


def test_every_reason_has_an_example() -> None:
    shown = {reason for path in INVALID for reason in json.loads(path.read_text())["expect"]}
    # Decided by the sink, over more than one record:
    by_the_sink = {"id_conflict"}
    # Too large for a file, or no text; see test_bad_input.py and test_batches.py:
    in_its_own_test = {"array_too_long", "record_too_large", "header_name", "too_many_headers", "unreadable_batch"}
    ours = {"internal_error"}  # see test_faults.py
    assert shown - {"accepted"} == set(REASONS) - by_the_sink - in_its_own_test - ours


@pytest.mark.parametrize("path", STRUCTURED, ids=lambda path: path.stem)
def test_valid_examples_pass_the_public_model(path: Path) -> None:
    example = json.loads(path.read_text())
    events = example["value"] if isinstance(example["value"], list) else [example["value"]]
    for event in events:
        model = UsageEvent.model_validate(event)
        assert UsageEvent.model_validate_json(model.to_wire()) == model


NEEDS_MORE_THAN_THE_EVENT = {
    "too_old", "in_future", "id_too_old", "id_in_future", "amount_too_large", "null_value", "content_type",
    "unknown_type", "empty_array", "control_character", "subcount_above_total", "nested_too_deep",
}  # fmt: skip


def wrong_by_themselves() -> list[Path]:
    """Invalid examples that are wrong by the fields of one event alone."""
    expected = {path: json.loads(path.read_text())["expect"] for path in INVALID}
    return [
        path for path, reasons in expected.items() if len(reasons) == 1 and reasons[0] not in NEEDS_MORE_THAN_THE_EVENT
    ]


@pytest.mark.parametrize("path", wrong_by_themselves(), ids=lambda path: path.stem)
def test_invalid_examples_fail_the_public_model(path: Path) -> None:
    _, record = load(path)
    assert record.value is not None
    with pytest.raises(ValidationError):
        UsageEvent.model_validate_json(record.value)
