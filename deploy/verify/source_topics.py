"""The source topics as they are on the broker: what is there, and its records from one offset to another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from meterstream.deploy import topics as broker_topics
from meterstream.deploy.failures import kafka_said
from meterstream.deploy.kafka import client_options
from meterstream.processors.batches import CLIENT_ERRORS, Batches, is_seamless
from meterstream.processors.raw_fetch import RawFetch, guard
from meterstream.schema import topics
from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.position import SourcePartition
from meterstream.schema.settings import Settings
from meterstream.schema.stopping import stopped

FETCH_BYTES: Final = 4_194_304
FETCH_WAIT_MS: Final = 10
"""A fetch at the end of one partition is in the way of the next partition's first one for so long."""
POLL_MS: Final = 1_000
READ_WITHIN_S: Final = 60.0
"""A broker that sends nothing for so long, though there is more, has failed."""


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that belongs to no group. Raises Unreachable, also for what goes wrong while it is used."""
    consumer = guard(
        AIOKafkaConsumer(
            **client_options(settings),
            auto_offset_reset="none",
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
    )
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise Unreachable(f"the broker at {settings.kafka_bootstrap} cannot be read: {kafka_said(error)}") from error
    finally:
        await stopped(consumer)


async def read(
    settings: Settings, consumer: AIOKafkaConsumer, partition: TopicPartition, first: int, end: int
) -> AsyncIterator[Any]:
    """Every record of [first, end), in order, as the rater reads them.

    Raises UsageError where none comes for READ_WITHIN_S, BatchDamaged.
    """
    if first >= end:
        return
    consumer.assign([partition])
    consumer.seek(partition, first)
    idle_ms = 0
    while first < end:
        batches: Batches | None = None
        try:
            records = (await consumer.getmany(partition, timeout_ms=POLL_MS)).get(partition, [])
            next_offset = await consumer.position(partition)
            is_whole = is_seamless(records, first, next_offset)
        except CLIENT_ERRORS:
            is_whole = False
        if not is_whole:
            async with RawFetch(client_options(settings)) as raw:
                records = batches = await raw.fetch(partition, first)
        for record in records:
            if record.offset >= end:
                return
            yield record
        if batches is not None:
            next_offset = batches.next_offset
            consumer.seek(partition, next_offset)
        idle_ms = 0 if next_offset > first else idle_ms + POLL_MS
        if idle_ms > READ_WITHIN_S * 1000:
            raise UsageError(f"{partition.topic}/{partition.partition}: nothing came from offset {first} on")
        first = next_offset


async def sources_there(settings: Settings) -> set[SourcePartition]:
    """Every source partition that the broker has: it may be more than the manifest says. Raises UsageError."""
    source_ids = topics.source_ids()
    return {
        SourcePartition(source_ids[topic], partition)
        for topic, count in (await broker_topics.partitions(settings, source_ids)).items()
        for partition in range(count)
    }


async def ends(
    consumer: AIOKafkaConsumer, sources: Iterable[SourcePartition]
) -> dict[SourcePartition, tuple[int, int]]:
    """First offset and end of each log, asked at once: later the requests would queue behind fetches."""
    partitions = {source: partition_of(source) for source in sources}
    begins = await consumer.beginning_offsets(list(partitions.values()))
    found = await consumer.end_offsets(list(partitions.values()))
    return {source: (begins[partition], found[partition]) for source, partition in partitions.items()}


def partition_of(source: SourcePartition) -> TopicPartition:
    """As Kafka's client names it."""
    names = {source_id: topic for topic, source_id in topics.source_ids().items()}
    return TopicPartition(names[source.source_id], source.partition)
