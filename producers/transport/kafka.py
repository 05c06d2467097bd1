"""Sends records to Kafka: idempotent, acknowledged by all replicas, bounded in flight.

The partition is the default partitioner's hash of the key (murmur2, as every Kafka client's), and the key is
the tenant: all of a tenant's events are in one partition, in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from meterstream.schema.cloudevents import Headers
from meterstream.schema.errors import MeterstreamError, Unreachable

RECORD_BYTES_MAX: Final = 1024 * 1024
"""As `max.message.bytes` of the source topics."""
BATCH_BYTES: Final = 128 * 1024
LINGER_MS: Final = 8
UNACKNOWLEDGED_MAX: Final = 10_000
REQUEST_TIMEOUT_MS: Final = 30_000


class KafkaTransport:
    """One producer. Use as `async with KafkaTransport(options) as transport`; not for several threads.

    `client_options` are aiokafka's connection arguments (`bootstrap_servers`, security). Entering raises
    Unreachable when no broker answers; leaving waits for every acknowledgement, but not after an error.
    """

    def __init__(self, client_options: Mapping[str, Any], *, unacknowledged_max: int = UNACKNOWLEDGED_MAX) -> None:
        self._client_options = dict(client_options)
        self._unacknowledged_max = unacknowledged_max
        self._producer: AIOKafkaProducer | None = None
        self._pending = 0
        self._has_room = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._has_room.set()
        self._is_empty.set()
        self._failure: BaseException | None = None
        self.acknowledged = 0
        """Records that the broker has confirmed."""
        self.offsets: dict[tuple[str, int], tuple[int, int]] = {}
        """(topic, partition) -> (lowest, highest) confirmed offset."""

    async def __aenter__(self) -> Self:
        producer = AIOKafkaProducer(
            **self._client_options,
            acks="all",
            enable_idempotence=True,
            compression_type="zstd",
            linger_ms=LINGER_MS,
            max_batch_size=BATCH_BYTES,
            max_request_size=RECORD_BYTES_MAX,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            await producer.stop()  # the half-started client's tasks would stay behind otherwise
            where = self._client_options.get("bootstrap_servers")
            raise Unreachable(
                f"no Kafka broker answers at {where}, or it refuses METERSTREAM_KAFKA_SECURITY and its login: "
                "run `meterstream up` or set METERSTREAM_KAFKA_BOOTSTRAP"
            ) from error
        self._producer = producer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._producer is not None
        try:
            if error is None:
                await self.flush()
        finally:
            await self._producer.stop()

    async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Hands one record over; waits while `unacknowledged_max` records are unconfirmed.

        Raises MeterstreamError when an earlier record was not accepted: nothing more can be sent then.
        """
        assert self._producer is not None
        if self._pending >= self._unacknowledged_max:
            self._has_room.clear()
            await self._has_room.wait()
        self._raise_failure()
        try:
            future = await self._producer.send(topic, value, key=key, headers=list(headers))
        except KafkaError as error:
            raise _not_accepted(error) from error
        self._pending += 1
        self._is_empty.clear()
        future.add_done_callback(self._on_done)

    async def flush(self) -> None:
        """Waits until every record is confirmed. Raises MeterstreamError when one was not accepted."""
        assert self._producer is not None
        await self._producer.flush()
        await self._is_empty.wait()
        self._raise_failure()

    def _on_done(self, future: asyncio.Future[Any]) -> None:
        self._pending -= 1
        # Half empty before going on: waking up for each record would cost a task switch a record.
        if self._pending <= self._unacknowledged_max // 2:
            self._has_room.set()
        if self._pending == 0:
            self._is_empty.set()
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._failure = self._failure or error
            self._has_room.set()
            return
        self.acknowledged += 1
        metadata = future.result()
        place = (metadata.topic, metadata.partition)
        lowest, highest = self.offsets.get(place, (metadata.offset, metadata.offset))
        self.offsets[place] = (min(lowest, metadata.offset), max(highest, metadata.offset))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise _not_accepted(self._failure) from self._failure


def _not_accepted(error: BaseException) -> MeterstreamError:
    return MeterstreamError(
        f"the broker did not accept a record: {type(error).__name__}: {error}. What was confirmed before stays; "
        "run the same command again to continue"
    )
