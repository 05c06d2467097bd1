"""Calendar periods in zones whose clocks do strange things."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterstream.processors.aggregation.periods import Calendar, Period
from meterstream.schema.budget import checked
from tests.oracle import calendar as oracle

HOUR = 3_600_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ms(text: str) -> int:
    """ISO 8601 with an offset -> ms since 1970."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1)


def calendar(period: str, zone: str, **fields: Any) -> Calendar:
    return Calendar(checked(tenant="t", name="n", amount="1", currency="USD", period=period, time_zone=zone, **fields))


def text_of(period: Period) -> tuple[str, str]:
    start, end = (EPOCH + timedelta(milliseconds=moment) for moment in period)
    return f"{start:%Y-%m-%dT%H:%M}", f"{end:%Y-%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-28T23:00", "2026-03-29T22:00", 23),
        ("Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-24T22:00", "2026-10-25T23:00", 25),
        ("America/New_York", "2026-03-08T12:00-04:00", "2026-03-08T05:00", "2026-03-09T04:00", 23),
        ("America/New_York", "2026-11-01T01:30-05:00", "2026-11-01T04:00", "2026-11-02T05:00", 25),
        ("Australia/Lord_Howe", "2026-04-05T12:00+10:30", "2026-04-04T13:00", "2026-04-05T13:30", 24.5),
        ("Australia/Lord_Howe", "2026-10-04T12:00+11:00", "2026-10-03T13:30", "2026-10-04T13:00", 23.5),
        ("Asia/Kolkata", "2026-07-01T00:00+05:30", "2026-06-30T18:30", "2026-07-01T18:30", 24),
        ("Asia/Kathmandu", "2026-07-01T23:59+05:45", "2026-06-30T18:15", "2026-07-01T18:15", 24),
        # No midnight: the day begins at 01:00.
        ("America/Sao_Paulo", "2017-10-15T01:00-02:00", "2017-10-15T03:00", "2017-10-16T02:00", 23),
        ("America/Sao_Paulo", "2017-10-14T23:59-03:00", "2017-10-14T03:00", "2017-10-15T03:00", 24),
        ("Asia/Beirut", "2026-03-29T01:00+03:00", "2026-03-28T22:00", "2026-03-29T21:00", 23),
        # The hour before midnight comes twice.
        ("America/Sao_Paulo", "2018-02-17T23:30-03:00", "2018-02-17T02:00", "2018-02-18T03:00", 25),
        # Midnight comes twice: the day begins with the first.
        ("America/Havana", "2026-11-01T00:30-05:00", "2026-11-01T04:00", "2026-11-02T05:00", 25),
        # A minute of the new day, then an hour of the old one again.
        ("America/St_Johns", "2010-11-06T23:30-03:30", "2010-11-07T02:30", "2010-11-08T03:30", 25),
        ("America/St_Johns", "2010-11-06T23:00-02:30", "2010-11-06T02:30", "2010-11-07T02:30", 24),
        # The 30th was left out.
        ("Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-29T10:00", "2011-12-30T10:00", 24),
        ("Pacific/Apia", "2011-12-31T00:00+14:00", "2011-12-30T10:00", "2011-12-31T10:00", 24),
        ("UTC", "1970-01-01T00:00+00:00", "1970-01-01T00:00", "1970-01-02T00:00", 24),
        ("America/New_York", "1970-01-01T00:00+00:00", "1969-12-31T05:00", "1970-01-01T05:00", 24),
    ],
)
def test_days(zone: str, moment: str, start: str, end: str, hours: float) -> None:
    period = calendar("day", zone).period_of(ms(moment))
    assert text_of(period) == (start, end)
    assert period.end_ms - period.start_ms == hours * HOUR
    assert period.start_ms <= ms(moment) < period.end_ms


@pytest.mark.parametrize(
    ("fields", "moment", "start", "end"),
    [
        ({}, "2026-03-29T23:59+02:00", "2026-03-22T23:00", "2026-03-29T22:00"),  # Monday to Monday, 167 hours
        ({}, "2026-03-30T00:00+02:00", "2026-03-29T22:00", "2026-04-05T22:00"),
        ({"week_start": 7}, "2026-03-29T00:00+01:00", "2026-03-28T23:00", "2026-04-04T22:00"),
        ({"week_start": 7}, "2026-03-28T23:59+01:00", "2026-03-21T23:00", "2026-03-28T23:00"),
        ({"week_start": 4}, "2026-01-01T00:00+01:00", "2025-12-31T23:00", "2026-01-07T23:00"),
    ],
)
def test_weeks(fields: dict[str, int], moment: str, start: str, end: str) -> None:
    assert text_of(calendar("week", "Europe/Berlin", **fields).period_of(ms(moment))) == (start, end)


@pytest.mark.parametrize(
    ("anchor_day", "moment", "start", "end"),
    [
        (1, "2026-03-31T23:59+02:00", "2026-02-28T23:00", "2026-03-31T22:00"),
        (1, "2024-02-29T12:00+01:00", "2024-01-31T23:00", "2024-02-29T23:00"),
        (29, "2024-02-29T00:00+01:00", "2024-02-28T23:00", "2024-03-28T23:00"),
        (29, "2026-02-28T00:00+01:00", "2026-02-27T23:00", "2026-03-28T23:00"),
        (31, "2026-02-27T23:59+01:00", "2026-01-30T23:00", "2026-02-27T23:00"),
        (31, "2026-02-28T00:00+01:00", "2026-02-27T23:00", "2026-03-30T22:00"),
        (31, "2026-04-30T00:00+02:00", "2026-04-29T22:00", "2026-05-30T22:00"),
        (31, "2024-02-29T00:00+01:00", "2024-02-28T23:00", "2024-03-30T23:00"),
        (15, "2026-01-14T23:59+01:00", "2025-12-14T23:00", "2026-01-14T23:00"),
        (15, "2025-12-15T00:00+01:00", "2025-12-14T23:00", "2026-01-14T23:00"),
    ],
)
def test_months(anchor_day: int, moment: str, start: str, end: str) -> None:
    assert text_of(calendar("month", "Europe/Berlin", anchor_day=anchor_day).period_of(ms(moment))) == (start, end)


def test_a_week_and_a_month_may_begin_on_the_day_that_was_left_out() -> None:
    moment = ms("2011-12-31T12:00+14:00")
    assert text_of(calendar("week", "Pacific/Apia", week_start=5).period_of(moment))[0] == "2011-12-30T10:00"
    assert text_of(calendar("month", "Pacific/Apia", anchor_day=30).period_of(moment))[0] == "2011-12-30T10:00"


ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo",
    "Asia/Beirut", "Pacific/Apia", "America/St_Johns", "America/Havana", "Africa/Casablanca", "Pacific/Kiritimati",
    "Pacific/Pago_Pago", "Europe/London", "America/Nuuk", "Africa/Cairo",
]  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> tuple[str, str, int, int]:
    period = draw(st.sampled_from(["day", "week", "month"]))
    week_start = draw(st.integers(1, 7)) if period == "week" else 1
    anchor_day = draw(st.sampled_from([1, 2, 15, 28, 29, 30, 31])) if period == "month" else 1
    return period, draw(st.sampled_from(ZONES)), week_start, anchor_day


@settings(max_examples=150)
@given(specs(), st.integers(ms("2008-01-01T00:00+00:00"), ms("2036-01-01T00:00+00:00")))
def test_periods_tile_time_and_agree_with_the_oracle(spec: tuple[str, str, int, int], moment: int) -> None:
    period, zone, week_start, anchor_day = spec
    days = calendar(period, zone, week_start=week_start, anchor_day=anchor_day)
    found = days.period_of(moment)
    assert found.start_ms <= moment < found.end_ms
    assert found == oracle.period(period, zone, week_start, anchor_day, moment)
    for other in (found.start_ms, found.end_ms - 1, (found.start_ms + found.end_ms) // 2):
        assert days.period_of(other) == found
    before, after = days.before(found), days.period_of(found.end_ms)
    assert before.end_ms == found.start_ms
    assert after.start_ms == found.end_ms
    assert before.start_ms < found.start_ms < found.end_ms < after.end_ms
