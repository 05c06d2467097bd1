"""A whole topic, read without a group: from its beginning or its end, then on as records come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from meterstream.deploy.failures import kafka_said
from meterstream.deploy.kafka import client_options
from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.settings import Settings
from meterstream.schema.stopping import stopped
from meterstream.schema.topics import partitions_of

SILENT_MAX_S: Final = 30.0
"""A broker that sends nothing for so long, though there is more, has failed."""
FETCH_WAIT_MS: Final = 100
"""A fetch at the end of one partition is in the way of the others for so long."""
RECORDS_MAX: Final = 5_000
"""In memory at once."""


class Follower:
    """Use as `async with Follower(settings, topic) as follower`, then `read` again and again; not for several tasks.

    `settings` must have the broker's address. Entering and reading raise Unreachable, entering also UsageError where
    there is no such topic.
    """

    def __init__(self, settings: Settings, topic: str, *, from_beginning: bool = True) -> None:
        self._settings = settings
        self._topic = topic
        self._from_beginning = from_beginning
        self._consumer = AIOKafkaConsumer(
            **client_options(settings),
            auto_offset_reset="earliest",  # what was read last may be compacted away or expired: then go on after it
            enable_auto_commit=False,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        self._ahead: dict[TopicPartition, int] = {}
        """Where each partition ended when it was entered, for those that have not been read up to there."""
        self._moved_at = 0.0

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            await self._begin()
        except BaseException as error:
            await stopped(self._consumer)
            raise self._explained(error) from error
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await stopped(self._consumer)

    async def _begin(self) -> None:
        if self._topic not in await self._consumer.topics():
            raise UsageError(f"there is no topic {self._topic}: run `meterstream topics apply`")
        partitions = [TopicPartition(self._topic, number) for number in range(partitions_of(self._topic))]
        self._consumer.assign(partitions)
        begins = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        for partition in partitions:
            self._consumer.seek(partition, begins[partition] if self._from_beginning else ends[partition])
        if self._from_beginning:
            self._ahead = {partition: end for partition, end in ends.items() if begins[partition] < end}
        self._moved_at = time.monotonic()

    @property
    def has_caught_up(self) -> bool:
        """True when everything has been read that was there on entering."""
        return not self._ahead

    async def ends(self, topic: str) -> dict[int, int]:
        """Where each partition of any topic ends now. Raises Unreachable."""
        partitions = [TopicPartition(topic, number) for number in range(partitions_of(topic))]
        try:
            ends = await self._consumer.end_offsets(partitions)
        except KafkaError as error:
            raise self._explained(error) from error
        return {partition.partition: end for partition, end in ends.items()}

    async def read(self, timeout_s: float) -> Sequence[Any]:
        """The next records, of each partition in order; none when none came for so long. aiokafka's ConsumerRecord."""
        try:
            batches = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=RECORDS_MAX)
            for partition, end in list(self._ahead.items()):
                # The position, not the last record: compaction leaves holes, also at the end.
                if await self._consumer.position(partition) >= end:
                    del self._ahead[partition]
            if batches:
                self._moved_at = time.monotonic()
            elif time.monotonic() - self._moved_at > SILENT_MAX_S:
                await self._ask()
        except KafkaError as error:
            raise self._explained(error) from error
        return [record for records in batches.values() for record in records]

    async def _ask(self) -> None:
        """Nothing has come for long: is nothing written, or nobody there? The client itself would wait for ever."""
        await self._consumer.topics()
        if not self.has_caught_up:
            raise Unreachable(f"{self._topic}: the broker at {self._settings.kafka_bootstrap} sends nothing any more")
        self._moved_at = time.monotonic()

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, KafkaError | OSError):
            where = self._settings.kafka_bootstrap
            return Unreachable(f"the broker at {where} cannot be read: {kafka_said(error)}")
        return error
