"""The demo's report: counts that add up, a curve that any terminal can draw, JSON for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from meterstream.deploy.demo.budgets import Alerted, Budgeted, Charge, compare, predicted
from meterstream.deploy.demo.results import Counts, Hour, Outcome, Results, Spend, _without_gaps
from meterstream.deploy.demo.text import TRY, columns, render, to_json
from meterstream.deploy.verify.raw import RawPartition
from meterstream.deploy.verify.run import Result
from meterstream.schema.aggregate import BudgetState
from meterstream.schema.alert import Alert, AlertData, Place, alert_id
from meterstream.schema.budget import checked
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
    return Outcome("demo/1", 100, results, alerted(), Result(report, raw), "psql here", 1.5, 2.5, is_kept)


def alerted(*differences: str) -> Alerted:
    budget = checked(tenant="acme", name="bot-1", amount="2", currency="USD", project_id="bot")
    terms: dict[str, Any] = {"tenant": "acme", "version": 1, "currency": "USD", "amount": "2", "period": "month"}
    period: dict[str, Any] = {"time_zone": "UTC", "period_start": NOON, "period_end": NOON, "provisional": False}
    state = BudgetState(
        name="bot-1", spent="1.500000000001", remaining="0.499999999999", percent="75.00", thresholds=(50, 80),
        reached=(50,), counts_since=None, partition=0, offset=9, **terms, **period,
    )  # fmt: skip
    place = Place(event_id="event-7", source="demo/1", source_id=1, source_partition=0, position=7)
    data = AlertData(
        rule="budget", budget="bot-1", percent=50, threshold="1", spent="1.000000000001", place=place, **terms, **period
    )
    alert = Alert(id=alert_id("acme", "bot-1", 1, NOON, 50), time=NOON, tenant="acme", data=data)
    return Alerted((Budgeted(budget, state, (alert,)),), 1, differences)


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
        if "sum(" in query:
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
    assert complete.is_good
    assert not replace(complete, sent=101).is_good


def test_budgets_show_what_was_spent_and_what_raised_each_alert() -> None:
    text = render(outcome(), is_unicode=False)
    assert "acme, bot, 2 USD a month: spent 1.500000000001, 75.00 %" in text
    assert "50 % reached at 1.000000000001 USD, by event event-7" in text
    assert "1 alert raised, 1 predicted from the ledger, 0 differences" in text


def test_an_alert_that_was_not_predicted_is_a_disagreement_and_is_said() -> None:
    wrong = replace(outcome(), alerted=alerted("is raised, and must not be: x"))
    assert not wrong.is_good
    assert "is raised, and must not be: x" in render(wrong, is_unicode=False)


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


# What must be raised.


def test_levels_are_reached_by_the_event_that_comes_to_them_each_period_anew() -> None:
    budget = checked(tenant="acme", name="bot", amount="1", currency="USD", period="month", thresholds=[50, 100])
    last, first = datetime(2026, 11, 30, 23, 59, 59, 999_999, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    charges = [
        Charge("a", last, Decimal("0.499999999999")),
        Charge("b", first, Decimal("0.5")),
        Charge("c", last, Decimal("0.000000000001")),
        Charge("d", first, Decimal("3")),
    ]
    levels, spent = predicted(budget, charges)
    assert [(level.event_id, level.percent, level.spent_pico) for level in levels] == [
        ("b", 50, 5 * 10**11), ("c", 50, 5 * 10**11), ("d", 100, 35 * 10**11),
    ]  # fmt: skip
    assert spent == {datetime(2026, 11, 1, tzinfo=UTC): 5 * 10**11, first: 35 * 10**11}


def test_a_missing_a_wrong_and_a_surplus_alert_are_told() -> None:
    [row] = alerted().budgets
    budget = row.budget
    good = [Charge("x", NOON, Decimal("0.5")), Charge("event-7", NOON, Decimal("0.500000000001"))]
    state = msgspec.structs.replace(row.state, period_start=NOON.replace(day=1, hour=0), spent="1.000000000001")
    [alert] = row.alerts
    alert = msgspec.structs.replace(alert, data=msgspec.structs.replace(alert.data, period_start=state.period_start))
    assert compare(budget, good, state, [alert]) == []
    assert len(compare(budget, good, state, [])) == 1
    assert len(compare(budget, good[:1], state, [alert])) == 2, "a surplus alert, and a sum that is not the ledger's"
    assert len(compare(budget, good, state, [alert, alert])) == 1, "each once"
