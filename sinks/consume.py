"""The one loop of every sink: assign, seek, batch, flush, pause.

The sink's own store says where to go on; Kafka's committed offset is only for the display of lag. All of
the loop runs in one task; aiokafka calls the two rebalance methods from another, and a lock keeps those
away from a flush that is under way.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from meterstream.schema import tracing
from meterstream.schema.errors import ContractError, Fenced, OffsetOutOfRange, RecordUnreadable, StopConsuming
from meterstream.schema.health import Health
from meterstream.schema.lag import Lag
from meterstream.schema.metrics import Durations, Metric

log = logging.getLogger(__name__)

POLL_TIMEOUT_S: Final = 0.2
ROWS_PER_RECORD: Final = 300
COMMIT_INTERVAL_S: Final = 1.0
COMMIT_TIMEOUT_S: Final = 5.0
HEALTH_INTERVAL_S: Final = 1.0
RETRY_DELAY_MIN_S: Final = 0.2
RETRY_DELAY_MAX_S: Final = 10.0

Partition = tuple[str, int]
"""(topic, partition); equal to aiokafka's TopicPartition."""


class Sink(Protocol):
    """What the loop writes to. Only the loop's task calls it, except `forget`, which never runs beside `flush`.

    After any error of `claim` or `flush` other than StopConsuming and ContractError the loop calls `reset`, waits, and
    claims everything anew.
    """

    async def claim(self, begins: Mapping[Partition, int]) -> Mapping[Partition, int]:
        """Takes partitions over; returns where to go on: `begins[partition]` where nothing is stored yet. May block."""

    def take(self, partition: Partition, records: Sequence[ConsumerRecord[Any, Any]]) -> int:
        """Keeps records of a claimed partition for the next flush; returns their weight in rows. Never blocks."""

    async def flush(self) -> Mapping[Partition, int]:
        """Stores what was taken, with the positions, or nothing; returns the next offsets. May block."""

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drops claims and what was taken of these partitions: somebody else owns them now."""

    async def reset(self) -> None:
        """Drops every claim, everything taken, and the connection."""

    def detail(self) -> dict[str, Any]:
        """Figures for the health file."""

    def warning(self) -> str | None:
        """What a person should do something about although all goes on; None: nothing. Never blocks."""


@dataclass(frozen=True)
class Limits:
    """When a batch is full, and how long the end may take."""

    batch_rows_max: int
    batch_age_s: float
    drain_timeout_s: float


class ConsumeLoop(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs one sink over some topics."""

    def __init__(self, consumer: AIOKafkaConsumer, sink: Sink, limits: Limits, health: Health) -> None:
        self._consumer = consumer
        self._sink = sink
        self._limits = limits
        self._health = health
        self._lock = asyncio.Lock()
        self._unclaimed: set[TopicPartition] = set()
        self._next_offsets: dict[TopicPartition, int] = {}
        self._stored: dict[Partition, int] = {}
        """What the store said last of each partition that the group has given us, claimed or not."""
        self._is_in_group = False
        self._lag = Lag(self._end_offsets)
        self._weight = 0
        self._flush_at = float("inf")
        self._commit_at = 0.0
        self._health_at = 0.0
        self._failures = 0
        self._failure: str | None = None
        self._totals: dict[str, int] = {
            Metric.REBALANCES_TOTAL: 0,
            Metric.SINK_FAILURES_TOTAL: 0,
            Metric.SINK_FENCED_TOTAL: 0,
        }
        self._batches = Durations()
        self._trace = _new_trace()

    async def run(self, topics: Sequence[str], stop: asyncio.Event) -> None:
        """Until `stop` is set; then stores what has been read. Raises StopConsuming, ContractError.

        Any other error is reported, and everything begins anew from what the store says, after a delay
        that grows up to RETRY_DELAY_MAX_S.
        """
        self._consumer.subscribe(list(topics), listener=self)
        lag = asyncio.create_task(self._lag.follow())
        try:
            while not stop.is_set():
                try:
                    await self._turn()
                except (StopConsuming, ContractError):
                    raise
                except Exception as error:  # whatever it was: nothing that we hold can be trusted any more
                    await self._start_anew(error, stop)
        finally:
            lag.cancel()
            await asyncio.gather(lag, return_exceptions=True)
        self._health.write("draining")
        async with asyncio.timeout(self._limits.drain_timeout_s):
            await self._flush()
            await self._commit()

    # ------------------------------------------------------------------ one turn

    async def _turn(self) -> None:
        if self._unclaimed:
            await self._claim()
        await self._read()
        now = _now()
        if self._weight >= self._limits.batch_rows_max or now >= self._flush_at:
            await self._flush()
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_INTERVAL_S
            await self._commit()
        if now >= self._health_at:
            self._health_at = now + HEALTH_INTERVAL_S
            self._report()

    async def _claim(self) -> None:
        async with self._lock:
            wanted = sorted(self._unclaimed & self._consumer.assignment())
            self._unclaimed.clear()
            if not wanted:
                return
            try:
                # The ends after the claim: until then an owner before us may store what has only just been sent.
                begins = await self._consumer.beginning_offsets(wanted)
                stored = await self._sink.claim(begins)
                ends = await self._consumer.end_offsets(wanted)
            except BaseException:
                self._unclaimed.update(wanted)
                raise
            self._lag.hear(ends)
            for partition in wanted:
                offset = stored[partition]
                if not begins[partition] <= offset <= ends[partition]:
                    raise OffsetOutOfRange(
                        f"{partition.topic}/{partition.partition}: stored up to offset {offset}, but the topic holds "
                        f"{begins[partition]} to {ends[partition]}: records were deleted unread, or the topic was "
                        "made anew. See docs/operate.md before anything is reset"
                    )
            for partition in set(wanted) & self._consumer.assignment():
                self._consumer.seek(partition, stored[partition])
                self._consumer.resume(partition)
                self._next_offsets[partition] = self._stored[partition] = stored[partition]

    async def _read(self) -> None:
        timeout_s = min(POLL_TIMEOUT_S, max(0.0, self._flush_at - _now()))
        room = max(1, self._limits.batch_rows_max - self._weight)
        try:
            batches = await self._consumer.getmany(
                timeout_ms=int(timeout_s * 1000), max_records=-(-room // ROWS_PER_RECORD)
            )
        except NoOffsetForPartitionError:
            return  # asked before `on_partitions_assigned` could seek
        except OffsetOutOfRangeError as error:
            raise OffsetOutOfRange(f"the next offset is not in the topic any more: {error}") from error
        except UnicodeDecodeError as error:
            raise RecordUnreadable(f"a record has a header that none of our roles writes: {error}") from error
        for partition, records in batches.items():
            expected = self._next_offsets.get(partition)
            if expected is None or not records or records[0].offset < expected:
                continue  # taken away, or fetched before the seek
            if self._weight == 0:
                self._flush_at = _now() + self._limits.batch_age_s
            self._trace.take_records(record.headers for record in records)
            self._weight += self._sink.take(partition, records)
            self._next_offsets[partition] = records[-1].offset + 1

    async def _flush(self) -> None:
        async with self._lock:
            if self._weight:
                began_at = _now()
                self._stored |= await self._sink.flush()
                self._batches.observe(_now() - began_at)
                self._failures, self._failure = 0, None
                self._trace.end(rows=self._weight)
                self._trace = _new_trace()
            self._weight = 0
            self._flush_at = float("inf")

    async def _commit(self) -> None:
        """Decoration: `kafka-consumer-groups` and dashboards read lag from it; nothing of ours does."""
        stored = {tp: offset for tp, offset in self._next_offsets.items() if tp in self._consumer.assignment()}
        if not stored:
            return
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await self._consumer.commit(stored)
        except (KafkaError, TimeoutError) as error:
            log.warning("offsets not shown in Kafka: %s: %s", type(error).__name__, error)

    def _report(self) -> None:
        lag = self._lag_records()
        if lag == 0 and not self._unclaimed:
            self._failure = None
        reasons = [
            reason for reason in (self._failure or self._sink.warning(), self._lag.trouble) if reason is not None
        ]
        self._health.write("degraded" if reasons else "running", "; ".join(reasons) or None, lag, **self._detail())

    def _detail(self) -> dict[str, Any]:
        return {
            Metric.LAG_SECONDS: self._lag.seconds(self._next_stored()) if self._is_in_group else None,
            Metric.BATCH_SECONDS: self._batches.figures(),
            **self._totals,
            **self._sink.detail(),
        }

    def _lag_records(self) -> int | None:
        return self._lag.records(self._next_stored()) if self._is_in_group else None

    def _next_stored(self) -> dict[Partition, int | None]:
        return {partition: self._stored.get(partition) for partition in self._consumer.assignment()}

    async def _end_offsets(self) -> dict[Partition, int]:
        ends: dict[Partition, int] = await self._consumer.end_offsets(list(self._consumer.assignment()))
        return ends

    # ------------------------------------------------------------------ after an error

    async def _start_anew(self, error: Exception, stop: asyncio.Event) -> None:
        """Drops everything, then keeps polling without fetching, so that the group keeps us, and waits."""
        self._failures += 1
        self._failure = f"{type(error).__name__}: {error}"
        log.warning("starting anew from what is stored, failure %d: %s", self._failures, self._failure)
        self._totals[Metric.SINK_FAILURES_TOTAL] += 1
        self._totals[Metric.SINK_FENCED_TOTAL] += isinstance(error, Fenced)
        self._trace.end(error)
        self._trace = _new_trace()
        self._health.write("degraded", self._failure, self._lag_records(), **self._detail())
        async with self._lock:
            await self._sink.reset()
            self._weight = 0
            self._flush_at = float("inf")
            self._next_offsets.clear()
            self._unclaimed |= self._consumer.assignment()
            self._consumer.pause(*self._unclaimed)
        delay_s = min(RETRY_DELAY_MAX_S, RETRY_DELAY_MIN_S * 2 ** min(self._failures - 1, 10))
        until = _now() + delay_s * random.uniform(0.5, 1.0)  # noqa: S311
        while (left_s := until - _now()) > 0 and not stop.is_set():
            await self._read_nothing(min(left_s, POLL_TIMEOUT_S))

    async def _read_nothing(self, timeout_s: float) -> None:
        try:
            await self._consumer.getmany(timeout_ms=max(1, int(timeout_s * 1000)))
        except KafkaError as error:
            log.warning("while waiting: %s: %s", type(error).__name__, error)
            await asyncio.sleep(timeout_s)

    # ------------------------------------------------------------------ rebalance (the coordinator's task)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Waits for a flush that is under way; what was read but not stored, the next owner reads again."""
        async with self._lock:
            self._is_in_group = False
            self._sink.forget(revoked)
            for partition in revoked:
                self._stored.pop(partition, None)
                self._next_offsets.pop(partition, None)
                self._unclaimed.discard(partition)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Fetches nothing until the loop has claimed them: no database here."""
        for partition in assigned:
            self._consumer.pause(partition)
            # Any position will do: without one aiokafka would look for a committed offset.
            self._consumer.seek(partition, 0)
            self._unclaimed.add(partition)
        self._is_in_group = True
        self._totals[Metric.REBALANCES_TOTAL] += 1


def _new_trace() -> tracing.Batch:
    """Of what one flush stores, from its first record on."""
    return tracing.Batch("store usage", "consumer")


def _now() -> float:
    return asyncio.get_running_loop().time()
