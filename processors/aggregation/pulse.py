"""Tells a process that stood still (SIGSTOP, a frozen machine) from one that has much to do, or a busy machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    def since_s(self) -> float:
        """Since the last beat, whatever it did meanwhile; costs next to nothing."""
        return self._clock() - self._at_s


class Standstill:
    """Holds back who must not go on after a standstill before what was missed meanwhile has been made up for.

    Of one event loop, on which the pulse beats. A loop that was busy for so long has missed the same.
    """

    def __init__(self, pulse: Pulse, limit_s: float) -> None:
        """What is shorter than `limit_s` is none. Nothing is noticed before `watch`."""
        self._pulse = pulse
        self._limit_s = limit_s
        self._is_watching = False
        self._noticed = 0
        self._is_over = asyncio.Event()
        self._is_over.set()

    def watch(self) -> None:
        """From now on there is somebody who makes up for what is missed."""
        self._is_watching = True

    def leave(self) -> None:
        """Nobody does any more: whoever waits goes on, and nobody waits again."""
        self._is_watching = False
        self._is_over.set()

    def notice(self) -> None:
        """Call it before each beat."""
        if self._is_watching and self._pulse.since_s() > self._limit_s:
            self._noticed += 1
            self._is_over.clear()

    async def over(self) -> None:
        """Returns at once where there was none; else blocks until all is made up for."""
        self.notice()  # who wakes may come here before the next beat
        while not self._is_over.is_set():
            await self._is_over.wait()
            self.notice()

    @contextmanager
    def ending(self) -> Iterator[bool]:
        """What is done inside makes up for those that were noticed before, not for one within; gives whether any were.

        An error inside ends none.
        """
        self.notice()
        noticed = self._noticed
        yield not self._is_over.is_set()
        if noticed == self._noticed:
            self._is_over.set()
