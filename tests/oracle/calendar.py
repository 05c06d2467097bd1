"""Calendar periods by brute force: every quarter of an hour is asked for its local date.

A period begins with the first instant whose local date is at or after the period's first day. Zones move their
clocks on whole quarters of an hour, or one minute after midnight, which is asked too.
"""

from __future__ import annotations

from bisect import bisect_right
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

QUARTER_MS = 15 * 60_000


def period(kind: str, zone: str, week_start: int, anchor_day: int, moment_ms: int) -> tuple[int, int]:
    """[start, end) in ms since 1970 of the period that holds the moment."""
    starts = _starts(kind, zone, week_start, anchor_day, datetime.fromtimestamp(moment_ms // 1000, UTC).date())
    following = bisect_right(starts, moment_ms)
    return starts[following - 1], starts[following]


@cache
def _starts(kind: str, zone: str, week_start: int, anchor_day: int, near: date) -> list[int]:
    """Of the periods around a day, in order."""
    reach = {"day": 3, "week": 9, "month": 34}[kind]
    return [
        _beginning(zone, day)
        for day in (near + timedelta(days=step) for step in range(-reach, reach + 1))
        if _is_first(kind, week_start, anchor_day, day)
    ]


def _is_first(kind: str, week_start: int, anchor_day: int, day: date) -> bool:
    if kind == "day":
        return True
    if kind == "week":
        return day.isoweekday() == week_start
    return day.day == min(anchor_day, monthrange(day.year, day.month)[1])


@cache
def _beginning(zone: str, day: date) -> int:
    at = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000 - 15 * 3_600_000
    while datetime.fromtimestamp(at // 1000, ZoneInfo(zone)).date() < day:
        at += QUARTER_MS
    return at


def text(moment_ms: int) -> str:
    """ms since 1970 -> RFC 3339, UTC, whole seconds."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
