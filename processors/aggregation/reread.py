"""Reads ranges of `usage.priced` again, beside the stream: after a start, and where the stream left a hole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from meterstream.processors.aggregation.fold import Partition
from meterstream.schema import topics
from meterstream.schema.errors import OffsetOutOfRange
from meterstream.schema.pack import KIND_HEADER, decode_claims

_POLL_MS: Final = 1_000
_RECORDS_MAX: Final = 2_000


class LogReader:
    """A consumer without a group. Use as an async context manager; one range at a time."""

    def __init__(self, client_options: Mapping[str, Any]) -> None:
        self._consumer = AIOKafkaConsumer(
            **client_options, auto_offset_reset="none", enable_auto_commit=False, max_partition_fetch_bytes=4_194_304
        )

    async def __aenter__(self) -> LogReader:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def begins(self, numbers: Collection[int]) -> dict[int, int]:
        """partition -> the first offset that the topic holds. Raises aiokafka's errors."""
        return _by_number(await self._consumer.beginning_offsets([_partition(number) for number in numbers]))

    async def ends(self, numbers: Collection[int]) -> dict[int, int]:
        """partition -> the offset that comes next. Raises aiokafka's errors."""
        return _by_number(await self._consumer.end_offsets([_partition(number) for number in numbers]))

    async def first_time_ms(self, number: int, offset: int) -> int:
        """When the record at an offset was sent, ms since 1970. Raises OffsetOutOfRange, aiokafka's errors."""
        async for records in self.read({number: (offset, offset + 1)}):
            timestamp_ms: int = records[0].timestamp
            return timestamp_ms
        raise OffsetOutOfRange(f"{topics.PRICED}/{number}: there is no record at offset {offset}")

    async def read(self, ranges: Mapping[int, tuple[int, int]]) -> AsyncIterator[Sequence[ConsumerRecord[Any, Any]]]:
        """The records of [begin, end) of each partition, in order within it; a piece holds one partition.

        Blocks until all have come. Raises OffsetOutOfRange, aiokafka's errors.
        """
        left = {_partition(number): end for number, (begin, end) in ranges.items() if begin < end}
        self._consumer.assign(list(left))
        for partition in left:
            self._consumer.seek(partition, ranges[partition.partition][0])
        while left:
            try:
                pieces = await self._consumer.getmany(*left, timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)
            except OffsetOutOfRangeError as error:
                raise OffsetOutOfRange(f"{topics.PRICED}: what is needed is not there any more: {error}") from error
            for partition, records in pieces.items():
                wanted = [record for record in records if record.offset < left[partition]]
                if wanted:
                    yield wanted
                    await asyncio.sleep(0)
            for partition in list(left):
                if await self._consumer.position(partition) >= left[partition]:
                    del left[partition]


def gather(partition: Partition, record: ConsumerRecord[Any, Any]) -> None:
    """Takes the claims of a record that every bucket holds already: nothing else of it is needed, or decoded.

    Raises RecordUnreadable.
    """
    assert partition.next_offset <= record.offset < partition.low_offset
    if all(name != KIND_HEADER for name, _ in record.headers):
        claimed = decode_claims(record.value)
        partition.claims.add(
            record.offset, claimed.watermark_ms or partition.watermark_ms, [row.claim for row in claimed.rows]
        )
    partition.next_offset = record.offset + 1


def _partition(number: int) -> TopicPartition:
    return TopicPartition(topics.PRICED, number)


def _by_number(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {partition.partition: offset for partition, offset in offsets.items()}
