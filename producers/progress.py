"""Waits until something that the sender does has come about: for threads and for event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


class Progress:
    """Whoever waits asks again after each `happened`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._loops: set[Callable[[], None]] = set()

    def happened(self) -> None:
        """Something has changed. Any thread."""
        with self._changed:
            self._changed.notify_all()
            loops = list(self._loops)
        for wake in loops:
            with suppress(RuntimeError):  # a loop that was closed while somebody waited in it
                wake()

    def wait(self, is_so: Callable[[], bool], timeout_s: float | None) -> bool:
        """Blocks until it is so; False: not in time. `is_so` may be asked often."""
        with self._changed:
            return self._changed.wait_for(is_so, None if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))

    async def wait_in_loop(self, is_so: Callable[[], bool], timeout_s: float | None) -> bool:
        """As `wait`, in any event loop."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._changed:
            self._loops.add(wake)
        try:
            async with asyncio.timeout(timeout_s):
                while not is_so():
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            return False
        finally:
            with self._changed:
                self._loops.discard(wake)
        return True
