"""Fetches batches from a broker as they lie there; what aiokafka's consumer would not give out, `batches` reads.

Slower than the consumer: for the few fetches that it fails at, or whose offsets do not follow each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher
from aiokafka.errors import LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest

from meterstream.processors.batches import Batches, PollTooLong, for_client

FETCH_BYTES: Final = 1_048_576
"""Of one partition, compressed; a first batch that is larger comes whole."""
TRIED_BYTES_MAX: Final = 32 * 1024 * 1024
"""So much of one answer of a broker is decompressed to find out how large it becomes."""
POLL_S_MAX: Final = 2.0
"""Its waiting included."""
HEADERS_UNWATCHED: Final = 8
"""A record with no more of them takes a time that its bytes bound."""
_READ_COMMITTED: Final = 1
_PREFERRED_REPLICA_SINCE: Final = 11
"""The version of the answer that has a field more at its end."""


def guard(consumer: AIOKafkaConsumer) -> AIOKafkaConsumer:
    """The same consumer, kept from taking apart what could take it long or much memory (`batches.for_client`).

    aiokafka offers no place for that, so it is put between its fetcher and its connection. Where the consumer's
    `value_deserializer` is a PollWatch its polls bring `ThinRecords`.
    """
    fetcher.PartitionRecords = ThinRecords
    client = consumer._client
    send = client.send

    async def guarded(node_id: Any, request: Any, **options: Any) -> Any:
        response = await send(node_id, request, **options)
        if isinstance(request, FetchRequest):
            response.topics = _bounded(response.topics)
        return response

    client.send = guarded
    return consumer


def _bounded(topics: list[Any]) -> list[Any]:
    """The same answer, of each partition the first batches. aiokafka asks in random order: none is always the last."""
    left = TRIED_BYTES_MAX
    bounded = []
    for topic, partitions in topics:
        kept = []
        for *fields, data in partitions:
            first, tried = for_client(data or b"", left) if left > 0 else (b"", 0)
            left -= tried
            kept.append((*fields, first))
        bounded.append((topic, kept))
    return bounded


class PollWatch:
    """Give it to aiokafka as `value_deserializer`: ends a poll that takes too long.

    A record with millions of empty headers comes in a few hundred bytes, and a poll takes thousands of records apart
    before anything else can run: the group would put us out.
    """

    def __init__(self) -> None:
        self._until_s = math.inf

    def start(self) -> None:
        """Call it before each poll."""
        self._until_s = time.monotonic() + POLL_S_MAX

    def __call__(self, value: bytes | None) -> bytes | None:
        """Raises PollTooLong, which is one of CLIENT_ERRORS."""
        if time.monotonic() > self._until_s:
            raise PollTooLong(f"more than {POLL_S_MAX} s")
        return value


class ThinRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """What aiokafka takes a fetch apart with; for whom it may concern (PollWatch) it gives out records as they come.

    They have offset, timestamp, key, value and headers, a list, and know neither topic nor partition. To make a
    `ConsumerRecord` of each costs as much as to read it from its batch.
    """

    def __iter__(self) -> Iterator[Any]:
        return self._records_iterator  # type: ignore[no-any-return]

    def _consumer_record(self, partition: TopicPartition, record: Any) -> Any:
        watch = self._value_deserializer
        if type(watch) is not PollWatch:
            return super()._consumer_record(partition, record)
        if len(record.headers) > HEADERS_UNWATCHED:
            watch(None)
        return record


class RawFetch:
    """A connection of its own, in no group. Use it as an async context manager."""

    def __init__(self, client_options: dict[str, Any]) -> None:
        """`client_options`: aiokafka's, to connect with."""
        self._client = AIOKafkaClient(**client_options)

    async def __aenter__(self) -> Self:
        await self._client.bootstrap()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def fetch(self, partition: TopicPartition, offset: int) -> Batches:
        """What is there from `offset` on, at least one batch; empty at the end. Does not wait. Raises KafkaError."""
        await self._client.add_topic(partition.topic)
        leader = self._client.cluster.leader_for_partition(partition)
        if leader is None or leader < 0:
            raise LeaderNotAvailableError(partition)
        wanted = [(partition.topic, [(partition.partition, offset, FETCH_BYTES)])]
        response = await self._client.send(leader, FetchRequest(0, 0, FETCH_BYTES, _READ_COMMITTED, wanted))
        ((_, ((_, code, _, *rest),)),) = response.topics
        if code:
            raise for_code(code)(partition)
        aborted = rest[-3] if response.API_VERSION >= _PREFERRED_REPLICA_SINCE else rest[-2]
        return Batches(f"{partition.topic}/{partition.partition}", rest[-1], aborted or (), offset)
