"""Live windows of a tenant: counters by hour, day and minute of event time. Pure.

Hours and days are numbered from 1970-01-01T00:00Z. Which of them are live is a function of the
partition's watermark: the current one and the one before take events (and the next one: an event may be
five minutes ahead of the broker's clock); one more is kept, settled, until it leaves.
"""

from __future__ import annotations

from typing import Final, NamedTuple

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
MINUTE_MS: Final = 60_000
HOURS_A_DAY: Final = 24

EVENTS, ERRORS, UNPRICED, INPUT, OUTPUT, AMOUNT, ADJUSTMENT = range(7)
"""Places of the counters in `Counts`; amounts in pico."""
Counts = list[int]

MINUTES_KEPT: Final = 60
MODELS_MAX: Final = 500
"""(provider, model, currency) kept apart for a tenant at a time; what comes beyond is counted as OTHER. With names of
128 characters of four bytes a window still fits into a record of 1 MiB."""
OTHER: Final = "__other__"

ModelKey = tuple[str, str, str]
"""(provider, model, currency)"""


class Floors(NamedTuple):
    """The oldest windows that still take events, and the oldest that are kept."""

    hour: int
    day: int
    minute: int
    hour_kept: int
    day_kept: int

    @classmethod
    def at(cls, watermark_ms: int) -> Floors:
        hour, day = watermark_ms // HOUR_MS, watermark_ms // DAY_MS
        return cls(hour - 1, day - 1, watermark_ms // MINUTE_MS - MINUTES_KEPT + 1, hour - 2, day - 2)


ROOM_BYTES: Final = 2 * 1024 * 1024
"""What the leaves of a bucket may take in its record, about: whatever names tenants make up, it can be sent."""
_LEAF_BYTES: Final = 400


class Room:
    """What the leaves of a bucket's tenants take: a function of them, so that every reader of the log agrees."""

    __slots__ = ("used_bytes",)

    def __init__(self) -> None:
        self.used_bytes = 0


def _weight(key: ModelKey) -> int:
    return _LEAF_BYTES + len(key[0].encode()) + len(key[1].encode())


class Leaf:
    """One model of a tenant, in one currency."""

    __slots__ = ("days", "hours")

    def __init__(self) -> None:
        self.hours: dict[int, Counts] = {}
        self.days: dict[int, Counts] = {}


class TenantWindows:
    """All live windows of one tenant."""

    __slots__ = ("_room", "dirty", "leaves", "minutes")

    def __init__(self) -> None:
        self._room = Room()
        self.leaves: dict[ModelKey, Leaf] = {}
        self.minutes: dict[str, dict[int, list[int]]] = {}
        """currency -> minute -> [events, errors, amount]: for rules over the last minutes."""
        self.dirty: set[int] = set()
        """Hours whose snapshot, and that of their day, is not published yet."""

    def add(self, key: ModelKey, occurred_ms: int, counts: Counts, floors: Floors) -> bool:
        """Adds to the windows that still take events; False when there is none."""
        hour, day = occurred_ms // HOUR_MS, occurred_ms // DAY_MS
        if day < floors.day:
            return False
        leaf = self.leaves.get(key)
        if leaf is None:
            leaf = self._leaf(key)
        _add(leaf.days, day, counts)
        self.dirty.add(hour)
        if hour >= floors.hour:
            _add(leaf.hours, hour, counts)
            minute = occurred_ms // MINUTE_MS
            if minute >= floors.minute:
                self._add_minute(key[2], minute, counts)
        return True

    def sweep(self, before: Floors, floors: Floors) -> tuple[list[int], list[int]]:
        """Lets go of what is not kept any more; returns the hours and days that left.

        What took events `before` and is settled now becomes dirty: its last snapshot says so.
        """
        hours = {hour for leaf in self.leaves.values() for hour in leaf.hours}
        days = {day for leaf in self.leaves.values() for day in leaf.days}
        gone_hours = [hour for hour in hours if hour < floors.hour_kept]
        gone_days = [day for day in days if day < floors.day_kept]
        self.dirty = {hour for hour in self.dirty if hour >= floors.day_kept * HOURS_A_DAY}
        self.dirty |= {hour for hour in hours if max(before.hour, floors.hour_kept) <= hour < floors.hour}
        self.dirty |= {day * HOURS_A_DAY for day in days if max(before.day, floors.day_kept) <= day < floors.day}
        for key, leaf in list(self.leaves.items()):
            for hour in gone_hours:
                leaf.hours.pop(hour, None)
            for day in gone_days:
                leaf.days.pop(day, None)
            if not leaf.days:
                del self.leaves[key]
                self._room.used_bytes -= _weight(key)
        for currency, minutes in list(self.minutes.items()):
            for minute in [minute for minute in minutes if minute < floors.minute]:
                del minutes[minute]
            if not minutes:
                del self.minutes[currency]
        return gone_hours, gone_days

    def move_to(self, room: Room) -> None:
        """Takes its place in a bucket's room."""
        self._room = room
        room.used_bytes += sum(map(_weight, self.leaves))

    def _leaf(self, key: ModelKey) -> Leaf:
        if len(self.leaves) >= MODELS_MAX or self._room.used_bytes + _weight(key) > ROOM_BYTES:
            key = (OTHER, OTHER, key[2])
        leaf = self.leaves.get(key)
        if leaf is None:
            leaf = self.leaves[key] = Leaf()
            self._room.used_bytes += _weight(key)
        return leaf

    def _add_minute(self, currency: str, minute: int, counts: Counts) -> None:
        minutes = self.minutes.get(currency)
        if minutes is None:
            minutes = self.minutes[currency] = {}
        amount = counts[AMOUNT] + counts[ADJUSTMENT]
        ring = minutes.get(minute)
        if ring is None:
            minutes[minute] = [counts[EVENTS], counts[ERRORS], amount]
        else:
            ring[0] += counts[EVENTS]
            ring[1] += counts[ERRORS]
            ring[2] += amount


def _add(windows: dict[int, Counts], number: int, counts: Counts) -> None:
    """Lists of counters are replaced, never changed: hour and day may share one."""
    window = windows.get(number)
    if window is None:
        windows[number] = counts
        return
    events, errors, unpriced, input_tokens, output_tokens, amount, adjustment = window
    more_events, more_errors, more_unpriced, more_input, more_output, more_amount, more_adjustment = counts
    windows[number] = [  # written out: three times as fast as a loop, twice for each row
        events + more_events,
        errors + more_errors,
        unpriced + more_unpriced,
        input_tokens + more_input,
        output_tokens + more_output,
        amount + more_amount,
        adjustment + more_adjustment,
    ]
