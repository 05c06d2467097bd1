"""An entry by hand is refused before it is sent, in words that help, and goes where its time is taken."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from meterstream.deploy.cli import group
from meterstream.deploy.intake import manual_entry
from meterstream.deploy.intake.manual_entry import Entry
from meterstream.producers.made_event import UsageFields
from meterstream.schema.errors import UsageError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GOOD = ("--tenant=acme", "--provider=openai", "--model=gpt-4o-mini", "--operation=chat", "--usage=input_tokens=5")


def make(**changed: Any) -> Entry:
    usage = changed.pop("usage", {"input_tokens": Decimal(5)})
    asked: dict[str, Any] = {"tenant": "acme", "provider": "openai", "source": "manual", "event_id": None, "time": None}
    return manual_entry.make(UsageFields(operation="chat", usage=usage), **(asked | changed), now=NOW)


@pytest.mark.parametrize(
    ("age", "topic"),
    [
        (timedelta(0), "usage.raw"),
        (timedelta(days=34, hours=23), "usage.raw"),
        (timedelta(days=35), "usage.backfill"),
        (timedelta(days=3000), "usage.backfill"),
    ],
)
def test_it_goes_where_its_time_is_taken(age: timedelta, topic: str) -> None:
    entry = make(time=NOW - age)
    assert (entry.topic, entry.key) == (topic, b"acme")
    assert datetime.fromisoformat(json.loads(entry.value)["time"]) == entry.time == NOW - age


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"usage": {"bananas": Decimal(1)}}, "bananas"),
        ({"usage": {"input_tokens": Decimal("1.5")}}, "whole numbers"),
        ({"usage": {"input_tokens": Decimal(1), "cache_read_tokens": Decimal(2)}}, "sub-counts"),
        ({"usage": {"input_tokens": Decimal(-1)}}, "0 to"),
        ({"tenant": ""}, "whose usage"),
        ({"time": NOW + timedelta(hours=1)}, "in_future"),
        ({"time": NOW - timedelta(days=4000)}, "too_old"),
        ({"event_id": "x" * 200}, "id"),
        ({"event_id": "019b0000-0000-7000-8000-000000000000", "time": NOW}, "id"),
    ],
)
def test_what_would_be_rejected_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=f"nothing was sent: .*{says}"):
        make(**changed)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--usage=output_tokens", "write name=value"),
        ("--usage==5", "write name=value"),
        ("--usage=input_tokens=6", "given twice"),
        ("--usage=seconds=1e3", "no decimal number"),
        ("--usage=seconds=0.0000000001", "more than 9 decimal places"),
        ("--tag=a", "write name=value"),
        ("--id=", "it is empty"),
        ("--time=2026-11-01T10:00:00", "has no zone"),
        ("--time=1999-01-01", "too_old"),
    ],
)
def test_what_is_asked_wrongly(option: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["record", *GOOD, option]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and says in captured.err
