"""Sends records when they are due, at little cost to the processors that it shares with what is measured.

Each round takes all that is due, in one ready batch a partition: record after record costs more than twice as much.
Open loop: when a record is due is fixed beforehand, so a round that takes long only makes the next one larger, and
what waited for it has waited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner

from meterstream.producers.simulated import SimulatedRecord
from meterstream.producers.transport.kafka import BATCH_BYTES, LINGER_MS
from meterstream.schema.topics import RAW, partitions_of

_OPTIONS: Final[dict[str, Any]] = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "zstd",
    "max_batch_size": BATCH_BYTES,
}
_PARTITION_OF: Final = DefaultPartitioner()


class PacedSender:
    """One producer to `usage.raw`, which batches and partitions as our client does. Use as an async context manager."""

    def __init__(self, client_options: Mapping[str, Any]) -> None:
        self._producer = AIOKafkaProducer(**client_options, **_OPTIONS)
        self.sent = 0
        """Records that the broker has confirmed."""

    async def __aenter__(self) -> PacedSender:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def send(self, records: Sequence[SimulatedRecord], due_s: Sequence[float]) -> float:
        """All of them, each when it is due (seconds since 1970, ascending), or as a client's linger lets it wait.

        -> when the last was confirmed. Blocks until then. Raises KafkaError.
        """
        partitions = list(range(partitions_of(RAW)))
        places = {key: _PARTITION_OF(key, partitions, partitions) for key in {record.key for record in records}}
        begin = 0
        while begin < len(records):
            await asyncio.sleep(max(0.0, due_s[begin] + LINGER_MS / 1000 - time.time()))
            now, end = time.time(), begin + 1
            while end < len(records) and due_s[end] <= now:
                end += 1
            await self._send_round(records[begin:end], places)
            begin = self.sent = end
        return time.time()

    async def _send_round(self, records: Sequence[SimulatedRecord], places: Mapping[bytes, int]) -> None:
        full: list[tuple[int, Any]] = []
        open_: dict[int, Any] = {}
        for record in records:
            place = places[record.key]
            batch = open_.get(place)
            content = {"key": record.key, "value": record.value, "headers": list(record.headers), "timestamp": None}
            if batch is None or batch.append(**content) is None:
                if batch is not None:
                    full.append((place, batch))
                batch = open_[place] = self._producer.create_batch()
                batch.append(**content)
        batches = [*full, *open_.items()]
        sends = [await self._producer.send_batch(batch, RAW, partition=place) for place, batch in batches]
        await asyncio.gather(*sends)
