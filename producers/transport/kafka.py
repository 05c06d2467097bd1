"""Sends records to Kafka: idempotent, acknowledged by all replicas, bounded in flight and in waiting.

The partition is the default partitioner's hash of the key (murmur2, as every Kafka client's), and the key is
the tenant: all of a tenant's events are in one partition, in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from meterstream.schema.cloudevents import Headers
from meterstream.schema.errors import DeliveryFailed, Unreachable
from meterstream.schema.topics import RAW, manifest

BATCH_BYTES: Final = 128 * 1024
LINGER_MS: Final = 8
UNACKNOWLEDGED_MAX: Final = 10_000
REQUEST_TIMEOUT_MS: Final = 30_000
PRODUCER_OPTIONS: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "zstd",
    "linger_ms": LINGER_MS,
    "max_batch_size": BATCH_BYTES,
    "request_timeout_ms": REQUEST_TIMEOUT_MS,
}
"""What makes sending safe and cheap: not for a user to change."""
STALLED_AFTER_S: Final = 90.0
"""aiokafka itself waits for ever for a broker that has gone away. Longer than one takes to be started anew."""
STOP_WITHIN_S: Final = 2.0
"""After an error nothing more is delivered, and a broker that has gone away must not hold up the end."""
CANCEL_POLL_S: Final = 0.05


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
            **PRODUCER_OPTIONS,
            max_request_size=int(manifest()[RAW].config["max.message.bytes"]),
        )
        with connecting(self._client_options):
            try:
                await producer.start()
            except BaseException:
                await producer.stop()  # the half-started client's tasks would stay behind otherwise
                raise
        self._producer = producer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._producer is not None
        if error is None:
            try:
                await self.flush()
            except DeliveryFailed:
                await self._abandon()
                raise
            await self._producer.stop()
        else:
            await self._abandon()

    async def _abandon(self) -> None:
        """Ends the producer, whether the broker is there or not."""
        assert self._producer is not None
        stopping = asyncio.ensure_future(self._producer.stop())
        await asyncio.wait([stopping], timeout=STOP_WITHIN_S)
        sender = self._producer._sender.sender_task
        while not stopping.done() and not sender.done():
            # `stop` waits for deliveries that cannot come, and without the task that tries them it goes on. When
            # that is cancelled it waits once more for what is under way; cancelled again, it ends.
            sender.cancel()
            await asyncio.wait([sender], timeout=CANCEL_POLL_S)
        await stopping

    async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Hands one record over; waits while `unacknowledged_max` records are unconfirmed.

        Raises DeliveryFailed when an earlier record was not accepted, or none is confirmed any more: nothing
        more can be sent then.
        """
        assert self._producer is not None
        if self._pending >= self._unacknowledged_max:
            self._has_room.clear()
            await self._wait(self._has_room)
        self._raise_failure()
        try:
            future = await self._producer.send(topic, value, key=key, headers=list(headers))
        except UnknownTopicOrPartitionError as error:
            raise DeliveryFailed(
                f"there is no topic {topic} (`meterstream topics apply` makes it), or the broker has gone",
                self.acknowledged,
            ) from error
        except KafkaError as error:
            raise self._not_accepted(error) from error
        self._pending += 1
        self._is_empty.clear()
        future.add_done_callback(self._on_done)

    async def flush(self) -> None:
        """Waits until every record is confirmed. Raises DeliveryFailed as `send` does."""
        assert self._producer is not None
        await self._wait(self._is_empty)
        self._raise_failure()

    async def _wait(self, event: asyncio.Event) -> None:
        """Raises DeliveryFailed when no record is confirmed for `STALLED_AFTER_S`."""
        while not event.is_set():
            before = self.acknowledged
            try:
                async with asyncio.timeout(STALLED_AFTER_S):
                    await event.wait()
            except TimeoutError as error:
                if self.acknowledged == before:
                    raise DeliveryFailed(
                        f"it has confirmed nothing for {STALLED_AFTER_S:.0f} s", self.acknowledged
                    ) from error

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
            raise self._not_accepted(self._failure) from self._failure

    def _not_accepted(self, error: BaseException) -> DeliveryFailed:
        return DeliveryFailed(str(error) or type(error).__name__, self.acknowledged)


@contextmanager
def connecting(client_options: Mapping[str, Any]) -> Iterator[None]:
    """Around the start of a client of aiokafka. Raises Unreachable, with the reason that it only logs."""
    heard = _LastError()
    logger = logging.getLogger("aiokafka")
    logger.addHandler(heard)
    try:
        yield
    except (KafkaError, OSError) as error:
        reason = heard.text or str(error) or ("no answer in time" if isinstance(error, TimeoutError) else repr(error))
        raise Unreachable(
            f"no Kafka broker answers at {client_options['bootstrap_servers']}, or it refuses us ({reason}): run "
            "`meterstream up`, or look at METERSTREAM_KAFKA_BOOTSTRAP and METERSTREAM_KAFKA_SECURITY"
        ) from error
    finally:
        logger.removeHandler(heard)


class _LastError(logging.Handler):
    """Keeps the last error that was logged as an argument."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, BaseException):
                self.text = str(argument) or type(argument).__name__
