"""Tells a process that stood still (SIGSTOP, a frozen machine) from one that has much to do, or a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_SCHEDULED: Final = Path("/proc/self/schedstat")
"""Linux: nanoseconds on a processor, nanoseconds waiting for one; of the main thread."""


def runnable_s() -> float:
    """Seconds for which the threads worked, and the main thread waited for a processor."""
    try:
        waited_ns = int(_SCHEDULED.read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        waited_ns = 0  # not told here
    return time.process_time() + waited_ns / 1e9


class Pulse:
    """How long this process stood still since its last beat: the time that passed, without that in which it worked.

    Who works long in one piece has no beat, and yet loses nothing: the group is kept by a thread of its own, which goes
    on meanwhile. So does who waits for a busy processor; where the system does not tell, that counts as standing still.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, work_clock: Callable[[], float] = runnable_s
    ) -> None:
        """Both in seconds; `work_clock` advances only while this process has a processor, or wants one."""
        self._clock = clock
        self._work_clock = work_clock
        self.beat()

    def beat(self) -> None:
        """It is alive now."""
        self._at_s, self._worked_s = self._clock(), self._work_clock()

    def stood_still_s(self) -> float:
        """Since the last beat; below zero where several threads worked."""
        return self._clock() - self._at_s - (self._work_clock() - self._worked_s)
