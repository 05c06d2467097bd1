"""Running a role's parts side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_beside(main: Coroutine[Any, Any, None], companion: Coroutine[Any, Any, None]) -> None:
    """Runs `main` to its end; the companion never ends by itself, and its error ends both."""
    tasks = [asyncio.create_task(main), asyncio.create_task(companion)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
