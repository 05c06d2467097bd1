"""Follows `usage.aggregates` into a `Live` view; `meter.catalog` says which budgets are gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import Final

from meterstream.deploy.live.follow import Follower
from meterstream.deploy.live.view import Live
from meterstream.schema import topics
from meterstream.schema.aggregate import budget_key
from meterstream.schema.catalog import BudgetEntry, decode_entry
from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.settings import Settings

log = logging.getLogger(__name__)

POLL_S: Final = 0.1
COUNTED_WITHIN_S: Final = 3.0
"""The aggregator publishes about once a second: what takes longer is said to be behind."""


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


async def removed_budgets(settings: Settings) -> dict[bytes, int]:
    """Key in `usage.aggregates` -> version, of every budget that the catalog says is removed.

    Blocks until the catalog has been read. An entry that cannot be read is left out: it is the aggregators' to log.
    Raises Unreachable, UsageError.
    """
    found: dict[bytes, int] = {}
    async with Follower(settings, topics.CATALOG) as follower:
        while not follower.has_caught_up:
            for record in await follower.read(POLL_S):
                if (record.key or b"").startswith(b"budget/") and record.value is not None:
                    _take_entry(found, record.value)
    return found


def _take_entry(removed: dict[bytes, int], value: bytes) -> None:
    try:
        entry = decode_entry(value)
    except RecordUnreadable:
        return
    if isinstance(entry, BudgetEntry):
        key = budget_key(entry.tenant, entry.name)
        removed.pop(key, None)
        if entry.removed:
            removed[key] = entry.version


class _Due:
    """What stood in `usage.priced` at a moment, and is to be counted soon."""

    def __init__(self, ends: Mapping[int, int]) -> None:
        self._ends = ends
        self._until = time.monotonic() + COUNTED_WITHIN_S

    def is_judged(self, live: Live) -> bool:
        """True once it is counted, or has not been for COUNTED_WITHIN_S; the view then says how much is not."""
        missing = live.missing(self._ends)
        if missing and time.monotonic() < self._until:
            return False
        live.uncounted = missing
        return True


async def snapshots(settings: Settings, interval_s: float) -> AsyncGenerator[Live, None]:
    """The view once it has been read to the topic's end, then about every `interval_s`: the same object, further on.

    The first comes up to COUNTED_WITHIN_S later where the aggregator is behind. Never ends by itself.

    `settings` need the broker's address. Raises Unreachable, UsageError.
    """
    live = Live()
    async with Follower(settings, topics.AGGREGATES) as follower:
        removed = asyncio.create_task(removed_budgets(settings))
        try:
            due = _Due(await follower.ends(topics.PRICED))
            while not follower.has_caught_up or not due.is_judged(live):
                await read_on(follower, live)
            live.leave_out(await removed)
        finally:
            removed.cancel()
            await asyncio.gather(removed, return_exceptions=True)
        while True:
            yield live
            until = time.monotonic() + interval_s
            while (left_s := until - time.monotonic()) > 0:
                await read_on(follower, live, min(left_s, POLL_S))
            if due.is_judged(live):
                due = _Due(await follower.ends(topics.PRICED))
