"""The event loop of a command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import closing
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, but Ctrl-C waits until `main` is about to begin. Blocks; call it from the main thread.

    A KeyboardInterrupt while the loop is being made leaves half a loop, and a coroutine that nobody awaits: Python
    prints a complaint about each.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    async def begin() -> T:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with closing(main):
            await asyncio.sleep(0)  # here it comes out
            return await main

    try:
        return asyncio.run(begin())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
