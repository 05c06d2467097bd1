"""How far a role is behind: its next offsets against end offsets that the broker has really given.

The high watermark of a client's last fetch is no answer: with a dead broker, or before the first fetch, it is old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

Partition = tuple[str, int]
"""(topic, partition); equal to a client's own type."""

log = logging.getLogger(__name__)

ASK_INTERVAL_S: Final = 1.0
ANSWER_WITHIN_S: Final = 3.0
"""A broker that takes longer does not answer; older ends are not used."""
GROWTH_KEPT: Final = 1024
"""Of each partition: a quarter of an hour in which it grew every second. Longer waits count as that long at least."""


class Lag:
    """Asks in the background (`follow`); `records` and `trouble` are what was heard last."""

    def __init__(
        self, ask: Callable[[], Awaitable[Mapping[Partition, int]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`ask` -> the end offset of every partition that the role reads; may block, may raise. `clock`: seconds."""
        self._ask = ask
        self._clock = clock
        self._ends: dict[Partition, tuple[int, float]] = {}
        """End offset, and when it was heard."""
        self._growth: dict[Partition, deque[tuple[int, float]]] = {}
        """Where a partition ended, and when that was first heard, oldest first."""
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
        now = self._clock()
        self._ends.update((partition, (end, now)) for partition, end in ends.items())
        self._trouble = None
        for partition, end in ends.items():
            growth = self._growth.setdefault(partition, deque(maxlen=GROWTH_KEPT))
            if not growth or end > growth[-1][0]:
                growth.append((end, now))

    def records(self, next_offsets: Mapping[Partition, int | None]) -> int | None:
        """Records between these offsets and the ends; None where an offset or a recent end is not known."""
        oldest = self._clock() - ANSWER_WITHIN_S - ASK_INTERVAL_S
        records = 0
        for partition, offset in next_offsets.items():
            end, heard_at = self._ends.get(partition, (0, oldest))
            if offset is None or heard_at <= oldest:
                return None
            records += max(0, end - offset)
        return records

    def seconds(self, next_offsets: Mapping[Partition, int | None]) -> float | None:
        """For how long the oldest record that is not read yet has been known to wait; 0.0: none waits.

        Never more than the truth, and less by the interval in which ends are asked for, or by what was before this
        process. None where `records` is None. Forgets what lies before `next_offsets`, which only grow.
        """
        if not self.records(next_offsets):
            return None if self.records(next_offsets) is None else 0.0
        for partition in self._growth.keys() - next_offsets.keys():
            del self._growth[partition]
        oldest = now = self._clock()
        for partition, offset in next_offsets.items():
            growth = self._growth.get(partition)
            while growth and offset is not None and growth[0][0] <= offset:
                growth.popleft()
            if growth:
                oldest = min(oldest, growth[0][1])
        return now - oldest

    @property
    def trouble(self) -> str | None:
        """Why the lag is unknown, when the broker did not answer the last question."""
        return self._trouble
