"""Calendar periods in a time zone: days, weeks and months that begin at local midnight. Pure.

A period is [start, end) in ms since 1970. A day that the clocks make shorter or longer is so long; where
midnight does not exist, the day begins with its first instant; where it comes twice, with the first.
Local time and UTC are joined by the IANA database (PEP 615, `fold` as in PEP 495).
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

from meterstream.schema.budget import Budget, zone_of

_DAY: Final = timedelta(days=1)


class Period(NamedTuple):
    """[start, end), ms since 1970."""

    start_ms: int
    end_ms: int


class Calendar:
    """The periods of one budget."""

    def __init__(self, budget: Budget) -> None:
        self._kind = budget.period
        self._zone = zone_of(budget.time_zone)
        self._week_start = budget.week_start
        self._anchor_day = budget.anchor_day

    def period_of(self, moment_ms: int) -> Period:
        """The period that holds the moment."""
        local = datetime.fromtimestamp(moment_ms / 1000, UTC).astimezone(self._zone).date()
        first = self._first(local)
        # Where the clocks step back over midnight a date comes twice, so the date alone does not decide.
        while moment_ms < self._instant(first):
            first = self._first(first - _DAY)
        while moment_ms >= (end_ms := self._instant(following := self._following(first))):
            first = following
        return Period(self._instant(first), end_ms)

    def before(self, period: Period) -> Period:
        """The one that ends where this one starts."""
        return self.period_of(period.start_ms - 1)

    def _first(self, day: date) -> date:
        """The first day of the period that holds a local date."""
        match self._kind:
            case "day":
                return day
            case "week":
                return day - timedelta(days=(day.isoweekday() - self._week_start) % 7)
            case "month":
                begin = self._anchor(day.year, day.month)
                return begin if begin <= day else self._anchor(*_month_before(day.year, day.month))

    def _following(self, first: date) -> date:
        match self._kind:
            case "day":
                return first + _DAY
            case "week":
                return first + 7 * _DAY
            case "month":
                return self._anchor(*_month_after(first.year, first.month))

    def _anchor(self, year: int, month: int) -> date:
        return date(year, month, min(self._anchor_day, monthrange(year, month)[1]))

    def _instant(self, day: date) -> int:
        local = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        return int(local.timestamp()) * 1000


def _month_before(year: int, month: int) -> tuple[int, int]:
    return (year - 1, 12) if month == 1 else (year, month - 1)


def _month_after(year: int, month: int) -> tuple[int, int]:
    return (year + 1, 1) if month == 12 else (year, month + 1)
