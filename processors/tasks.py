"""Running a role's parts side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_beside(main: Coroutine[Any, Any, None], *companions: Coroutine[Any, Any, None]) -> None:
    """Runs `main` to its end; a companion never ends by itself, and its error ends all."""
    tasks = [asyncio.create_task(part) for part in (main, *companions)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
