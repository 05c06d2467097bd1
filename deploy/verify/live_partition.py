"""What `usage.aggregates` says at the moment that Postgres is at. Pure.

A record holds at an offset of `usage.priced`, and a Progress says that every change before its offset has been
published. So, read up to the first Progress that is not before Postgres' position: a record that holds at that
position or before is the fold at exactly that position, for nothing has changed in between; one that holds later has
moved on, and tells nothing.
"""

from __future__ import annotations

from collections import Counter as Tally
from datetime import datetime

from meterstream.processors.aggregation.windows import DAY_MS, HOUR_MS, Floors
from meterstream.schema.aggregate import BudgetState, Progress, Window, WindowKind, decode_aggregate
from meterstream.schema.coverage import milliseconds

LENGTHS_MS: dict[WindowKind, int] = {"hour": HOUR_MS, "day": DAY_MS}


class LivePartition:
    """One partition: `add` its records in order, then ask.

    Of two records with one key that with the higher offset counts: an aggregator that was paused may send an old one at
    any time, even after a tombstone.
    """

    def __init__(self, position: int) -> None:
        """`position`: the offset of `usage.priced` before which all is in Postgres."""
        self.position = position
        self.progress: Progress | None = None
        """The first that is not before the position."""
        self.windows: dict[bytes, Window] = {}
        self.budgets: dict[bytes, BudgetState] = {}
        self.later: set[bytes] = set()
        """Keys of records after that progress."""
        self._offsets: dict[bytes, int] = {}

    def add(self, key: bytes | None, value: bytes | None) -> None:
        """Takes the next record. Raises RecordUnreadable."""
        if key is None:
            return
        if self.progress is not None:
            if value is not None:
                self.later.add(key)
            return
        if value is None:
            self.windows.pop(key, None)
            self.budgets.pop(key, None)
            return
        record = decode_aggregate(value)
        if isinstance(record, Progress):
            if record.offset >= self.position:
                self.progress = record
            return
        if record.offset < self._offsets.get(key, 0):
            return
        self._offsets[key] = record.offset
        if isinstance(record, Window):
            self.windows[key] = record
        else:
            self.budgets[key] = record

    def sorted_out(self, since: datetime | None, tally: Tally[str]) -> tuple[list[Window], list[Window]]:
        """-> windows that take events, windows that are settled; what cannot be compared is counted in the tally."""
        taking: list[Window] = []
        settled: list[Window] = []
        for window in self.windows.values():
            if since is not None and window.start < since:
                continue
            if window.offset > self.position:
                tally["moved on"] += 1
            elif window.partial:
                tally["partial"] += 1
            elif self._is_left_over(window):
                tally["left over"] += 1
            else:
                (settled if window.settled else taking).append(window)
        return taking, settled

    def _is_left_over(self, window: Window) -> bool:
        """At the progress it has been settled, or dropped, and published as such: this one came late, and stayed."""
        assert self.progress is not None
        number = milliseconds(window.start) // LENGTHS_MS[window.window]
        floors = Floors.at(milliseconds(self.progress.watermark))
        floor, kept = (floors.hour, floors.hour_kept) if window.window == "hour" else (floors.day, floors.day_kept)
        return number < kept or (number < floor and not window.settled)

    def complete_since(self, kind: WindowKind) -> datetime | None:
        """Every window that starts here or later, and takes events, must be here; None: that is not known."""
        windows = [window for window in self.windows.values() if window.window == kind]
        # What was settled before a loss is complete, and says nothing of what came after it.
        partial = max((window.start for window in windows if window.partial), default=None)
        starts = [window.start for window in windows if not window.partial]
        return min((start for start in starts if partial is None or start > partial), default=None)

    def takes_events(self, kind: WindowKind, start: datetime) -> bool:
        """True when no event of that window has been late so far."""
        assert self.progress is not None
        floors = Floors.at(milliseconds(self.progress.watermark))
        return milliseconds(start) // LENGTHS_MS[kind] >= (floors.hour if kind == "hour" else floors.day)
