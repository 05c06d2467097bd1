"""Reads ranges of a topic beside the stream: of `usage.priced` after a start, and where the stream left a hole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from meterstream.processors.aggregation.fold import Partition
from meterstream.schema import topics
from meterstream.schema.errors import OffsetOutOfRange, RecordUnreadable
from meterstream.schema.pack import KIND_HEADER, decode_claims
from meterstream.schema.stopping import stopped

_POLL_MS: Final = 1_000
_RECORDS_MAX: Final = 100
"""Of a piece, which is folded without a pause: 30,000 rows at most, or a busy machine takes the process for paused."""


class LogReader:
    """A consumer without a group. Use as an async context manager; one range at a time."""

    def __init__(self, client_options: Mapping[str, Any], topic: str = topics.PRICED) -> None:
        self._topic = topic
        self._consumer = AIOKafkaConsumer(
            **client_options,
            auto_offset_reset="none",
            enable_auto_commit=False,
            max_partition_fetch_bytes=4_194_304,
            fetch_max_wait_ms=10,  # what is asked for is there; a question behind a fetch would wait as long
        )

    async def __aenter__(self) -> LogReader:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await stopped(self._consumer)

    async def begins(self, numbers: Collection[int]) -> dict[int, int]:
        """partition -> the first offset that the topic holds. Raises aiokafka's errors."""
        return _by_number(await self._consumer.beginning_offsets(self._partitions(numbers)))

    async def ends(self, numbers: Collection[int]) -> dict[int, int]:
        """partition -> the offset that comes next. Raises aiokafka's errors."""
        return _by_number(await self._consumer.end_offsets(self._partitions(numbers)))

    async def end_of(self, topic: str) -> int:
        """The same of another topic, which has one partition. Raises aiokafka's errors."""
        partition = TopicPartition(topic, 0)
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets([partition])
        return ends[partition]

    async def first_time_ms(self, number: int, offset: int) -> int:
        """When the record at an offset was sent, ms since 1970. Raises OffsetOutOfRange, aiokafka's errors."""
        async with aclosing(self.read({number: (offset, offset + 1)})) as pieces:
            async for records in pieces:
                timestamp_ms: int = records[0].timestamp
                return timestamp_ms
        raise OffsetOutOfRange(f"{self._topic}/{number}: there is no record at offset {offset}")

    async def read(
        self, ranges: Mapping[int, tuple[int, int]]
    ) -> AsyncGenerator[Sequence[ConsumerRecord[Any, Any]], None]:
        """The records of [begin, end) of each partition, in order within it; a piece holds one partition.

        Blocks until all have come; close it (`aclosing`) before the next. Raises OffsetOutOfRange,
        RecordUnreadable, aiokafka's errors.
        """
        left = {TopicPartition(self._topic, number): end for number, (begin, end) in ranges.items() if begin < end}
        self._consumer.assign(list(left))
        for partition in left:
            self._consumer.seek(partition, ranges[partition.partition][0])
        try:
            async for piece in self._pieces(left):
                yield piece
        finally:
            self._consumer.assign([])  # or it would go on fetching, for nobody

    async def _pieces(
        self, left: dict[TopicPartition, int]
    ) -> AsyncGenerator[Sequence[ConsumerRecord[Any, Any]], None]:
        while left:
            try:
                pieces = await self._consumer.getmany(*left, timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)
            except OffsetOutOfRangeError as error:
                raise OffsetOutOfRange(f"{self._topic}: what is needed is not there any more: {error}") from error
            except UnicodeDecodeError as error:
                raise RecordUnreadable(f"{self._topic}: a header that none of our roles writes: {error}") from error
            for partition, records in pieces.items():
                wanted = [record for record in records if record.offset < left[partition]]
                if wanted:
                    yield wanted
                    await asyncio.sleep(0)
            for partition in list(left):
                if await self._consumer.position(partition) >= left[partition]:
                    del left[partition]

    def _partitions(self, numbers: Collection[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, number) for number in numbers]


def gather(partition: Partition, record: ConsumerRecord[Any, Any]) -> None:
    """Takes the claims of a record that every bucket holds already: nothing else of it is needed, or decoded.

    Raises RecordUnreadable.
    """
    assert partition.next_offset <= record.offset < partition.low_offset
    if any(name == KIND_HEADER for name, _ in record.headers):
        partition.claims.add(record.offset, 0, ())
    else:
        claimed = decode_claims(record.value)
        claims = [row.claim for row in claimed.rows] if claimed.source_id not in partition.retired_sources else ()
        partition.claims.add(record.offset, claimed.watermark_ms or partition.watermark_ms, claims)
    partition.next_offset = record.offset + 1


def _by_number(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {partition.partition: offset for partition, offset in offsets.items()}
