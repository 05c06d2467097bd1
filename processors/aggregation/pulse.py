"""Tells a process that stood still (SIGSTOP, a frozen machine) from one that has much to do."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pulse:
    """How long this process stood still since its last beat: the time that passed, without that in which it worked.

    Who works long in one piece has no beat, and yet loses nothing: the group is kept by a thread of its own, which goes
    on meanwhile. A wait for a processor that is busy counts as standing still.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, work_clock: Callable[[], float] = time.process_time
    ) -> None:
        """Both in seconds; `work_clock` advances only while this process has a processor."""
        self._clock = clock
        self._work_clock = work_clock
        self.beat()

    def beat(self) -> None:
        """It is alive now."""
        self._at_s, self._worked_s = self._clock(), self._work_clock()

    def stood_still_s(self) -> float:
        """Since the last beat; below zero where several threads worked."""
        return self._clock() - self._at_s - (self._work_clock() - self._worked_s)
