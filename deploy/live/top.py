"""Follows `usage.aggregates` into a `Live` view."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Final

from meterstream.deploy.live.follow import Follower
from meterstream.deploy.live.view import Live
from meterstream.schema import topics
from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.settings import Settings

log = logging.getLogger(__name__)

POLL_S: Final = 0.1


async def read_on(follower: Follower, live: Live, timeout_s: float = POLL_S) -> bool:
    """Takes the records that came within that time into the view; True when there were any.

    A record that cannot be read is logged and left out. Raises Unreachable.
    """
    records = await follower.read(timeout_s)
    for record in records:
        try:
            live.apply(record.key or b"", record.value, datetime.fromtimestamp(record.timestamp / 1000, UTC))
        except RecordUnreadable as error:
            log.warning("%s/%d, offset %d: %s", record.topic, record.partition, record.offset, error)
    return bool(records)


async def snapshots(settings: Settings, interval_s: float) -> AsyncGenerator[Live, None]:
    """The view once it has been read to the topic's end, then about every `interval_s`: the same object, further on.

    Never ends by itself. `settings` need the broker's address. Raises Unreachable, UsageError.
    """
    live = Live()
    async with Follower(settings, topics.AGGREGATES) as follower:
        while not follower.has_caught_up:
            await read_on(follower, live)
        while True:
            yield live
            due = time.monotonic() + interval_s
            while (left_s := due - time.monotonic()) > 0:
                await read_on(follower, live, min(left_s, POLL_S))
