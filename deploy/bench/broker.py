"""What the benchmark asks the broker: how far topics and groups are, and what a stretch of a topic holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    GroupCoordinatorNotAvailableError,
    NotCoordinatorError,
    for_code,
)

from meterstream.schema.stopping import stopped

Offsets = dict[int, int]
"""partition -> offset."""

_NO_COORDINATOR_YET = (CoordinatorLoadInProgressError, GroupCoordinatorNotAvailableError, NotCoordinatorError)


class Broker:
    """One admin client and one consumer without a group. Use as `async with`; raises KafkaError."""

    def __init__(self, client_options: Mapping[str, Any]) -> None:
        self.client_options = dict(client_options)
        self._admin = AIOKafkaAdminClient(**client_options)
        self._consumer = AIOKafkaConsumer(**client_options, enable_auto_commit=False, auto_offset_reset="none")

    async def __aenter__(self) -> Self:
        await self._admin.start()
        await self._consumer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await stopped(self._consumer)
        await self._admin.close()

    async def create(self, topic: str, partitions: int) -> None:
        """A topic of the benchmark's own."""
        response = await self._admin.create_topics([NewTopic(topic, partitions, 1)])
        for _, code, message in response.topic_errors:
            if code:
                raise for_code(code)(message)

    async def ends(self, topic: str, partitions: int) -> Offsets:
        """Where the next records will go."""
        wanted = [TopicPartition(topic, number) for number in range(partitions)]
        found = await self._consumer.end_offsets(wanted)
        return {partition.partition: offset for partition, offset in found.items()}

    async def committed(self, group: str, topic: str) -> Offsets:
        """What the group has committed; a partition of which it has committed nothing is left out."""
        try:
            found = await self._admin.list_consumer_group_offsets(group)
        except _NO_COORDINATOR_YET:
            return {}  # the first member ever is about to bring it up
        return {
            partition.partition: place.offset
            for partition, place in found.items()
            if partition.topic == topic and place.offset >= 0
        }

    async def read(self, topic: str, start: Offsets, end: Offsets) -> AsyncIterator[tuple[int, Sequence[Any]]]:
        """(partition, its next records), until every partition is read from `start` to `end`."""
        left = {TopicPartition(topic, number) for number, offset in end.items() if offset > start[number]}
        self._consumer.assign(sorted(left))
        for partition in left:
            self._consumer.seek(partition, start[partition.partition])
        while left:
            for partition, records in (await self._consumer.getmany(timeout_ms=500)).items():
                wanted = [record for record in records if record.offset < end[partition.partition]]
                if wanted:
                    yield partition.partition, wanted
                if await self._consumer.position(partition) >= end[partition.partition]:
                    left.discard(partition)
