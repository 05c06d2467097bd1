"""How far a role is behind: its next offsets against end offsets that the broker has really given.

The high watermark of a client's last fetch is no answer: with a dead broker, or before the first fetch, it is old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

Partition = tuple[str, int]
"""(topic, partition); equal to a client's own type."""

log = logging.getLogger(__name__)

ASK_INTERVAL_S: Final = 1.0
ANSWER_WITHIN_S: Final = 3.0
"""A broker that takes longer does not answer; older ends are not used."""


class Lag:
    """Asks in the background (`follow`); `records` and `trouble` are what was heard last."""

    def __init__(self, ask: Callable[[], Awaitable[Mapping[Partition, int]]]) -> None:
        """`ask` -> the end offset of every partition that the role reads; may block, may raise."""
        self._ask = ask
        self._ends: dict[Partition, tuple[int, float]] = {}
        """End offset, and when it was heard."""
        self._trouble: str | None = None

    async def follow(self) -> None:
        """For ever: asks, waits, asks again. Cancel it."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    ends = await self._ask()
                self._ends.clear()
                self.hear(ends)
            except Exception as error:  # whatever it was, the lag is unknown, and the role says so
                if self._trouble is None:
                    log.warning("the broker does not say where its topics end: %s: %s", type(error).__name__, error)
                self._trouble = f"the broker does not answer, lag unknown: {type(error).__name__}"
            await asyncio.sleep(ASK_INTERVAL_S)

    def hear(self, ends: Mapping[Partition, int]) -> None:
        """What somebody else has just asked: a role does so when partitions are given to it."""
        now = time.monotonic()
        self._ends.update((partition, (end, now)) for partition, end in ends.items())
        self._trouble = None

    def records(self, next_offsets: Mapping[Partition, int | None]) -> int | None:
        """Records between these offsets and the ends; None where an offset or a recent end is not known."""
        oldest = time.monotonic() - ANSWER_WITHIN_S - ASK_INTERVAL_S
        records = 0
        for partition, offset in next_offsets.items():
            end, heard_at = self._ends.get(partition, (0, oldest))
            if offset is None or heard_at <= oldest:
                return None
            records += max(0, end - offset)
        return records

    @property
    def trouble(self) -> str | None:
        """Why the lag is unknown, when the broker did not answer the last question."""
        return self._trouble
