"""The share of bad records, rejected or unmetered, in a sliding window: alarm, degraded health, opt-in pause. Pure."""

from __future__ import annotations

import logging
from collections import Counter, deque

from meterstream.schema import pack

log = logging.getLogger(__name__)

WINDOW_EVENTS = 2000
"""The share is judged over the newest events, at least this many."""
JUDGED_FROM_EVENTS = 100
"""Fewer events than this say nothing."""


class BadShare:
    """`reason` is None while all is well. `alarm` and `pause` are shares in (0, 1]; pause 0: never.

    `is_paused`: nothing may be read any more. It stays so until the process ends.
    """

    def __init__(self, *, alarm: float, pause: float) -> None:
        self._alarm = alarm
        self._pause = pause
        self._window: deque[tuple[int, int]] = deque()
        self._events = 0
        self._bad = 0
        self._seen = (0, 0)
        self.is_paused = False
        self._told_at_unmetered = 1
        self.reason: str | None = None

    def update(self, dispositions: Counter[str]) -> None:
        """Takes the totals so far."""
        total = dispositions.total()
        bad = total - dispositions[pack.PRICED] - dispositions[pack.UNPRICED]
        if total == self._seen[0]:
            return
        self._tell(dispositions[pack.UNMETERED])
        self._add(total - self._seen[0], bad - self._seen[1])
        self._seen = (total, bad)
        while self._events - self._window[0][0] >= WINDOW_EVENTS:
            events, bad = self._window.popleft()
            self._events -= events
            self._bad -= bad
        self._judge()

    def _tell(self, unmetered: int) -> None:
        """However few there are: each is usage that somebody pays for and nobody knows. Said of 1, 2, 4, 8 of them."""
        if unmetered >= self._told_at_unmetered:
            log.error("%d events so far whose usage could not be read; meter.unmetered says why", unmetered)
            self._told_at_unmetered = 2 * unmetered

    def _add(self, events: int, bad: int) -> None:
        self._window.append((events, bad))
        self._events += events
        self._bad += bad

    def _judge(self) -> None:
        events, bad = self._events, self._bad
        if self.is_paused or events < JUDGED_FROM_EVENTS:
            return
        self.is_paused = bool(self._pause) and bad >= self._pause * events
        if not self.is_paused and bad <= self._alarm * events:
            if self.reason is not None:
                log.info("bad records are back to normal: %d of the newest %d", bad, events)
            self.reason = None
            return
        if self.reason is None:
            log.error(
                "many bad records: %d of the newest %d; see meter.rejected, and unmetered_reason in meter.usage_events",
                bad,
                events,
            )
        self.reason = f"{bad} of the newest {events} events were rejected or unmetered"
        if self.is_paused:
            self.reason += "; reading is paused (rater_pause_on_bad_share): mend the cause, then restart the rater"
            log.error("%s", self.reason)
