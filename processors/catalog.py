"""Follows `meter.catalog`: reads it to its end, then on. What the entries mean is the reader's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from meterstream.schema import topics
from meterstream.schema.catalog import Entry, decode_entry
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.stopping import stopped

log = logging.getLogger(__name__)

_PARTITION: Final = TopicPartition(topics.CATALOG, 0)
_POLL_MS: Final = 500


class Catalog(Protocol):
    """The entries read so far, as their reader needs them. Reading one again changes nothing."""

    def apply(self, entry: Entry) -> bool:
        """Takes one entry; True when something that the reader uses may have changed. Raises MeterstreamError."""


class CatalogFollower:
    """A group-less consumer of the catalog. Use as an async context manager; then `follow` in a task."""

    def __init__(self, client_options: dict[str, Any], catalog: Catalog) -> None:
        self._consumer = AIOKafkaConsumer(**client_options, auto_offset_reset="earliest", enable_auto_commit=False)
        self._catalog = catalog
        self._has_polled = asyncio.Event()

    async def __aenter__(self) -> CatalogFollower:
        """Blocks until the catalog has been read to its end. Raises aiokafka's errors."""
        await self._consumer.start()
        self._consumer.assign([_PARTITION])
        await self._consumer.seek_to_beginning(_PARTITION)
        end = (await self._consumer.end_offsets([_PARTITION]))[_PARTITION]
        while await self._consumer.position(_PARTITION) < end:
            await self._poll()
        return self

    async def __aexit__(self, *_: object) -> None:
        await stopped(self._consumer)

    async def follow(self, on_change: Callable[[], None]) -> None:
        """Never returns; calls `on_change` (on this loop) whenever the catalog says that something changed."""
        while True:
            if await self._poll():
                on_change()
            self._has_polled.set()
            await asyncio.sleep(0)

    async def catch_up(self, end: int) -> None:
        """Blocks until `follow`, in another task, has taken everything before this offset."""
        while await self._consumer.position(_PARTITION) < end:
            self._has_polled.clear()
            await self._has_polled.wait()

    async def _poll(self) -> bool:
        changed = False
        batches = await self._consumer.getmany(_PARTITION, timeout_ms=_POLL_MS)
        for records in batches.values():
            for record in records:
                if record.value is None:
                    continue
                try:
                    changed |= self._catalog.apply(decode_entry(record.value))
                except MeterstreamError as error:
                    # One entry that cannot be used must not stop everything else: what runs stays as it was.
                    log.error("catalog entry at offset %d: %s", record.offset, error)
        return changed
