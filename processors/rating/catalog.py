"""Follows `meter.catalog`: reads it to its end, then keeps the rater's book and tenants current."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from meterstream.processors.rating.book import Book
from meterstream.schema import topics
from meterstream.schema.catalog import BudgetEntry, Head, Price, Tenant, decode_entry
from meterstream.schema.errors import RecordUnreadable

log = logging.getLogger(__name__)

_PARTITION: Final = TopicPartition(topics.CATALOG, 0)
_POLL_MS: Final = 500

OnChange = Callable[[Book, frozenset[str]], None]


class Catalog:
    """The entries read so far. Rows are immutable, so reading one again changes nothing."""

    def __init__(self) -> None:
        self._prices: dict[int, Price] = {}
        self._private: set[str] = set()
        self._revision = 0

    def apply(self, value: bytes) -> bool:
        """Takes one entry; True when the book or the private tenants may have changed. Raises RecordUnreadable."""
        entry = decode_entry(value)
        match entry:
            case Price():
                self._prices[entry.price_id] = entry
                return False  # not before its head says that the revision is complete
            case Tenant():
                before = entry.tenant in self._private
                (self._private.add if entry.privacy else self._private.discard)(entry.tenant)
                return before != entry.privacy
            case BudgetEntry():
                return False  # the aggregator's
            case Head():
                changed = entry.revision > self._revision
                self._revision = max(self._revision, entry.revision)
                return changed

    def book(self) -> Book:
        """The compiled prices of the newest complete revision."""
        return Book(self._prices.values(), self._revision)

    def private_tenants(self) -> frozenset[str]:
        """Tenants in privacy mode."""
        return frozenset(self._private)


class CatalogFollower:
    """A group-less consumer of the catalog. Use as an async context manager; then `follow` in a task."""

    def __init__(self, client_options: dict[str, Any]) -> None:
        self._consumer = AIOKafkaConsumer(**client_options, auto_offset_reset="earliest", enable_auto_commit=False)
        self.catalog = Catalog()

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
        await self._consumer.stop()

    async def follow(self, on_change: OnChange) -> None:
        """Never returns; calls `on_change` (on this loop) whenever prices or tenants changed."""
        while True:
            if await self._poll():
                book = self.catalog.book()
                log.info("price book: revision %d", book.revision)
                on_change(book, self.catalog.private_tenants())
            await asyncio.sleep(0)

    async def _poll(self) -> bool:
        changed = False
        batches = await self._consumer.getmany(_PARTITION, timeout_ms=_POLL_MS)
        for records in batches.values():
            for record in records:
                if record.value is None:
                    continue
                try:
                    changed |= self.catalog.apply(record.value)
                except RecordUnreadable as error:
                    # One entry that a newer version wrote must not stop the rating of everything else.
                    log.error("catalog entry at offset %d: %s", record.offset, error)
        return changed
