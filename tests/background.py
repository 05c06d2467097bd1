"""Work that goes on beside a test, and ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")

END_WITHIN_S = 100.0


@asynccontextmanager
async def beside(work: Callable[[asyncio.Event], Coroutine[Any, Any, Result]]) -> AsyncIterator[asyncio.Task[Result]]:
    """Runs `work(is_over)` during the block; sets the event at the block's end, and waits for the work to return.

    Where the block fails, the work is cancelled; where the work fails, the block is. Either way nothing is left
    running, and what went wrong is raised: both errors as a group, where there are two.
    """
    is_over = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work(is_over))
            yield task
            is_over.set()
            await asyncio.wait([task], timeout=END_WITHIN_S)
            assert task.done(), f"it was told to end, and has not within {END_WITHIN_S:.0f} s"
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) > 1:
            raise
        raise errors.exceptions[0] from None
