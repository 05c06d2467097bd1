"""What a topic of the manifest holds on a real broker: where its partitions end, and every record up to there."""

from __future__ import annotations

from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from meterstream.schema.topics import partitions_of


async def ends(options: dict[str, Any], *topics: str) -> dict[TopicPartition, int]:
    """partition -> end offset, of every partition of the topics. `options`: of the client."""
    async with AIOKafkaConsumer(**options) as consumer:
        return await _ends(consumer, topics)


async def read(options: dict[str, Any], *topics: str) -> list[ConsumerRecord]:
    """Everything that is there now, in order within a partition."""
    found: list[ConsumerRecord] = []
    async with AIOKafkaConsumer(**options, enable_auto_commit=False, fetch_max_wait_ms=10) as consumer:
        left = {partition: end for partition, end in (await _ends(consumer, topics)).items() if end}
        if not left:
            return []
        consumer.assign(list(left))
        await consumer.seek_to_beginning(*left)
        while left:
            for partition, records in (await consumer.getmany(*left, timeout_ms=500)).items():
                found += [record for record in records if record.offset < left[partition]]
            for partition in list(left):
                if await consumer.position(partition) >= left[partition]:
                    del left[partition]
    return found


async def _ends(consumer: AIOKafkaConsumer, topics: tuple[str, ...]) -> dict[TopicPartition, int]:
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(partitions_of(topic))]
    found: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    return found
