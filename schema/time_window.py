"""Hours of the week at which a price holds, in the vendor's own time zone: off-peak. Pure.

As text: `mon-fri 16:30-00:30 Asia/Shanghai`. Days (`mon-fri`, `sat,sun`; left out: every day) are those on which the
window opens; it holds from the first minute up to, and without, the second, past midnight where that is the smaller.
`00:00-00:00` is the whole day. Clocks are the zone's: where they go forward or back, its hours do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Final
from zoneinfo import ZoneInfo

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", re.ASCII)
_YEAR_DAYS: Final = 366
_EXAMPLE: Final = "write it as `mon-fri 16:30-00:30 Asia/Shanghai`"


@dataclass(frozen=True)
class TimeWindow:
    """`days` as 0 (Monday) to 6; minutes since midnight."""

    days: frozenset[int]
    opens: int
    closes: int
    zone: str

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    def is_open(self, moment: datetime) -> bool:
        """At an aware moment."""
        local = moment.astimezone(self._zone)
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.opens < self.closes:
            return self.opens <= minute < self.closes and day in self.days
        if minute >= self.opens:
            return day in self.days
        return minute < self.closes and (day - 1) % 7 in self.days

    def overlaps(self, other: TimeWindow, since: datetime) -> bool:
        """Whether both are open at some moment of the year after this one (aware): clocks are changed within a year."""
        return any(
            window.is_open(opening)
            for opener, window in ((self, other), (other, self))
            for opening in opener._openings(since)
        )

    def _openings(self, since: datetime) -> Iterator[datetime]:
        """When it opens in the year after a moment; also that moment, where it is open then."""
        if self.is_open(since):
            yield since
        day = since.astimezone(self._zone).replace(
            hour=self.opens // 60, minute=self.opens % 60, second=0, microsecond=0
        )
        for days in range(_YEAR_DAYS + 1):
            opening = day + timedelta(days=days)  # of the zone's own clock
            if opening.weekday() in self.days and opening >= since:
                yield opening

    def __str__(self) -> str:
        """The one way to write it, which is its key."""
        days = "" if len(self.days) == 7 else ",".join(_DAYS[day] for day in sorted(self.days)) + " "
        return f"{days}{_clock(self.opens)}-{_clock(self.closes)} {self.zone}"


@lru_cache(maxsize=1024)
def parse_time_window(text: str) -> TimeWindow:
    """Raises ValueError with the fix."""
    parts = text.split()
    if len(parts) not in (2, 3):
        raise ValueError(f"{text!r} is no window of hours: {_EXAMPLE}")
    days = _days(parts[0]) if len(parts) == 3 else frozenset(range(7))
    hours = _HOURS.fullmatch(parts[-2])
    if hours is None:
        raise ValueError(f"{parts[-2]!r} are no hours of a day: {_EXAMPLE}")
    zone = parts[-1]
    try:
        if not _ZONE.fullmatch(zone):
            raise ValueError(zone)
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise ValueError(f"there is no time zone {zone!r}: write UTC or a name such as Asia/Shanghai") from None
    opens, closes = int(hours[1]) * 60 + int(hours[2]), int(hours[3]) * 60 + int(hours[4])
    return TimeWindow(days, opens, closes, zone)


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        last = last or first
        if first not in _DAYS or last not in _DAYS:
            raise ValueError(f"{part!r} is no day of the week: {', '.join(_DAYS)}, or a range such as mon-fri")
        start = _DAYS.index(first)
        days.update((start + step) % 7 for step in range((_DAYS.index(last) - start) % 7 + 1))
    return frozenset(days)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
