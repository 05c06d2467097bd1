"""The demo's report: counts that add up, a curve that any terminal can draw, JSON for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from meterstream.deploy.demo_results import Counts, Hour, Outcome, Results, Spend, _without_gaps
from meterstream.deploy.demo_text import TRY, columns, render, to_json
from meterstream.deploy.verify import RawPartition, Result
from meterstream.sinks.postgres.verify import Check, Report

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def outcome(*, is_kept: bool = False, different: int = 0) -> Outcome:
    report = Report(NOON, None, (Check("ledger = rollup_hourly", 40, "keys", different, ()),), 0, ())
    raw = (RawPartition("usage.raw/0", 0, 99, 100, 0, 0, 0, ()),)
    results = Results(
        counts=Counts(ledger=90, duplicates=7, rejected=3),
        rejected={"malformed_json": 2, "unknown_unit": 1},
        totals=(Spend("USD", "USD", 85, 0, Decimal("1.500000000001")), Spend("XXX", "XXX", 5, 5, None)),
        by_model=(
            Spend("openai gpt-4o", "USD", 85, 0, Decimal("1.500000000001")),
            Spend("in-house llama", "XXX", 5, 5, None),
        ),
        by_tenant=(Spend("acme", "USD", 85, 0, Decimal("1.500000000001")),),
        hours=(Hour(NOON, 90, Decimal("1.500000000001")),),
        hours_currency="USD",
    )
    return Outcome("demo/1", 100, results, Result(report, raw), "psql here", 1.5, 2.5, is_kept)


@pytest.mark.parametrize("is_unicode", [True, False])
def test_the_highest_column_is_full_the_smallest_shows_and_nothing_is_empty(is_unicode: bool) -> None:
    values = [Decimal(0), Decimal(1), Decimal(500), Decimal(1000)]
    chart = columns(values, rows=4, is_unicode=is_unicode)
    assert [len(line) for line in chart] == [4] * 4
    stacked = ["".join(line[place] for line in chart) for place in range(4)]
    full = "█" if is_unicode else "#"
    assert stacked[0] == "    "
    assert stacked[1].strip() in ("▁", ".")
    assert stacked[2] == f"  {full}{full}"
    assert stacked[3] == full * 4
    assert is_unicode or "".join(chart).isascii()


def test_a_chart_of_nothing_is_blank() -> None:
    assert columns([Decimal(0)], rows=2, is_unicode=True) == [" ", " "]
    assert columns([], rows=2, is_unicode=True) == ["", ""]


def test_quiet_hours_are_shown() -> None:
    late = NOON.replace(hour=15)
    hours = _without_gaps([Hour(NOON, 1, Decimal(1)), Hour(late, 2, Decimal(2))])
    assert [(hour.hour.hour, hour.events) for hour in hours] == [(12, 1), (13, 0), (14, 0), (15, 2)]


def test_the_report_says_every_count() -> None:
    text = render(outcome(), is_unicode=False)
    assert text.isascii()
    for part in ("100 events sent", "90 in the ledger, 5 of", "7 came again", "3 rejected", "malformed_json"):
        assert part in text
    assert "no price yet" in text
    assert "1.500000000001 USD" in text
    assert all(query in text for _, query in TRY)
    assert "Verified:" in text
    assert "meterstream up" in text


def test_no_query_adds_currencies_or_calls_the_unpriced_zero() -> None:
    for _, query in TRY:
        if "amount" in query:
            assert "currency" in query.partition("FROM")[0]
            assert "sum(unpriced_events) AS unpriced" in query
            assert "FILTER (WHERE currency <> 'XXX') AS amount" in query


def test_where_nothing_has_a_price_there_is_no_curve() -> None:
    priced = outcome()
    results = replace(priced.results, totals=priced.results.totals[1:], hours_currency=None)
    text = render(replace(priced, results=results), is_unicode=False)
    assert "Spend by hour" not in text and "Total" not in text


def test_a_disagreement_is_said() -> None:
    assert not outcome(different=1).is_good
    assert "NOT in agreement" in render(outcome(different=1), is_unicode=True)


def test_a_missing_record_is_a_disagreement() -> None:
    complete = outcome()
    missing = Outcome("d", 101, complete.results, complete.verified, "psql", 1.0, 1.0, is_kept=False)
    assert complete.is_good
    assert not missing.is_good


def test_kept_says_how_to_stop() -> None:
    text = render(outcome(is_kept=True), is_unicode=True)
    assert "meterstream down" in text
    assert "meterstream up" not in text


def test_json_has_amounts_as_text() -> None:
    content = json.loads(to_json(outcome()), parse_float=lambda text: pytest.fail(text) if "." not in text else text)
    assert content["sent"] == content["ledger"] + content["duplicates"] + content["rejected"]
    assert content["spend"][0] == {"currency": "USD", "events": 85, "unpriced": 0, "amount": "1.500000000001"}
    assert content["spend_by_model"][1]["amount"] is None
    assert content["hours_currency"] == "USD"
    assert content["verified"]["is_good"] is True
