"""Ends a Kafka consumer, also where its client does not hear the first time."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

DEAF_AFTER_S: Final = 1.0


class Consumer(Protocol):
    """aiokafka's AIOKafkaConsumer."""

    async def stop(self) -> None: ...


async def stopped(consumer: Consumer) -> None:
    """Stops it. May block for as long as its broker takes. Raises what the client raises.

    aiokafka cancels its fetcher once and waits for it. A fetcher that is just letting go of partitions that were
    changed a moment ago takes that for the end of something else, goes on, and is waited for without end: so it is
    cancelled again. Where the broker has gone, the client lets a cancelled fetch of its own through: then it has
    stopped.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    try:
        while not (await asyncio.wait([stopping], timeout=DEAF_AFTER_S))[0]:
            stopping.cancel()
    except asyncio.CancelledError:
        stopping.cancel()
        raise
    if not stopping.cancelled():
        stopping.result()
