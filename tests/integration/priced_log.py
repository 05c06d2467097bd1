"""Raw records into a real ledger by the rater's core and the sink, at the prices that the database has."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aiokafka.structs import ConsumerRecord

from meterstream.deploy.pricing import listing
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.schema.position import SourcePartition
from meterstream.schema.settings import Settings
from meterstream.schema.topics import PRICED, RAW
from meterstream.sinks.postgres.service import PostgresSink

EVERY_ROW = """
    SELECT l.*, r.created_at AS known_from
    FROM meter.ledger l LEFT JOIN meter.price_revisions r ON r.revision = l.price_revision
"""


class PricedLog:
    """Raw records through the rater's core and the sink, with the prices that the database has at that time."""

    def __init__(self, settings: Settings, appended_at: datetime) -> None:
        self._settings = settings
        self._appended_ms = int(appended_at.timestamp() * 1000)
        self._sink = PostgresSink(settings.postgres_ingest_dsn.get_secret_value(), cluster_id="c", policy="month")
        self._outbox = Outbox(SourcePartition(1, 0), start_offset=None, priced=1, rejected=1)
        self._raw = self._priced = 0

    async def rate(self, values: list[tuple[bytes, Any]]) -> None:
        """(value, headers) of raw records, at the prices of now."""
        if not self._raw:
            await self._sink.claim({(PRICED, 0): 0})
        rows = await listing.history(self._settings)
        rater = Rater(Router(1), Book(rows, max(row.revision for row in rows)))
        for value, headers in values:
            record = ConsumerRecord(RAW, 0, self._raw, self._appended_ms, 0, None, value, None, 0, len(value), headers)
            self._raw += 1
            rater.rate(RAW, self._outbox, [record], is_backfill=False)
        for packed in self._outbox.cut(0):
            size = len(packed.value)
            record = ConsumerRecord(
                PRICED, 0, self._priced, self._appended_ms, 0, None, packed.value, None, 0, size, ()
            )
            self._priced += 1
            self._sink.take((PRICED, 0), [record])
        await self._sink.flush()

    async def close(self) -> None:
        """Lets the sink go."""
        await self._sink.close()
