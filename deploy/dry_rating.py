"""Decides an event without a pipeline: the rater's own code, with nothing behind it."""

from __future__ import annotations

from meterstream.processors.rating.admit import AgeLimits
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.schema.event import Event
from meterstream.schema.pack import Row, RowTuple
from meterstream.schema.position import SourcePartition


class DryRater:
    """Prices one event at a time with this book."""

    def __init__(self, book: Book) -> None:
        self._rater = Rater(Router(1), book)
        self._outbox = _Kept(SourcePartition(0, 0), start_offset=0, priced=1, rejected=1)

    def row(self, event: Event, original: bytes, limits: AgeLimits) -> Row:
        """The row that a rater would make of it. Raises EventRejected."""
        self._rater.rate_event(event, original, 0, limits, self._outbox)
        return Row(*self._outbox.row)  # type: ignore[arg-type]  # in the order of its fields


class _Kept(Outbox):
    """Keeps the row that the rater has just made."""

    row: RowTuple = ()

    def add(self, partition: int, row: RowTuple) -> None:
        self.row = row
