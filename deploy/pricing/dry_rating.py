"""Decides an event without a pipeline: the rater's own code, with nothing behind it."""

from __future__ import annotations

from meterstream.deploy.connections import resolve
from meterstream.deploy.kafka import client_options
from meterstream.processors.catalog import CatalogFollower
from meterstream.processors.rating.admit import AgeLimits
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.catalog import PriceCatalog
from meterstream.processors.rating.decode import decode_record
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.errors import EventRejected
from meterstream.schema.event import Event
from meterstream.schema.pack import Row, decode_row
from meterstream.schema.position import SourcePartition
from meterstream.schema.settings import Settings


async def prices_of_raters(settings: Settings) -> Book:
    """As they are now. Blocks on the broker. Raises UsageError, Unreachable."""
    catalog = PriceCatalog()
    async with CatalogFollower(client_options(resolve(settings, ["kafka_bootstrap"])), catalog):
        return catalog.book()


def decoded(value: bytes) -> tuple[Event, bytes]:
    """The event of a structured record and its bytes. Raises EventRejected."""
    event, original = decode_record(value, STRUCTURED_HEADERS)[0]
    if isinstance(event, EventRejected):
        raise event
    return event, original


class DryRater:
    """Prices one event at a time with this book."""

    def __init__(self, book: Book) -> None:
        self._rater = Rater(Router(1), book)
        self._outbox = _Kept(SourcePartition(0, 0), start_offset=0, priced=1, rejected=1)

    def row(self, event: Event, original: bytes, limits: AgeLimits) -> Row:
        """The row that a rater would make of it. Raises EventRejected."""
        self._rater.rate_event(event, original, 0, limits, self._outbox)
        return decode_row(self._outbox.row)


class _Kept(Outbox):
    """Keeps the row that the rater has just made."""

    row = b""

    def add(self, partition: int, position: int, row: bytes) -> None:
        self.row = row
