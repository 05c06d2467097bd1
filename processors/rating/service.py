"""The rater's loop: read, rate, send, and commit only what has been acknowledged.

Order, per commit interval: rows and rejected records of everything decided so far → coverage to every
output partition → acknowledgements → commit. So whoever starts at a committed offset finds everything
before it covered in every output partition, and its own first range joins on without a gap.

Any error ends the process; the supervisor starts it again and the committed offsets say where.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from meterstream.processors.batches import CLIENT_ERRORS, Batches, is_seamless
from meterstream.processors.catalog import CatalogFollower
from meterstream.processors.compression import compress_fast
from meterstream.processors.partition_counts import partition_counts
from meterstream.processors.rating import beginning
from meterstream.processors.rating.badness import BadShare
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.catalog import PriceCatalog
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Packed, Router, linger_s
from meterstream.processors.raw_fetch import PollWatch, RawFetch, guard
from meterstream.processors.tasks import run_beside
from meterstream.schema import topics, tracing
from meterstream.schema.failpoints import hit
from meterstream.schema.health import Health
from meterstream.schema.lag import Lag
from meterstream.schema.metrics import Durations, Metric
from meterstream.schema.pack import COVERAGE_HEADERS, Covered, encode_coverage
from meterstream.schema.position import SourcePartition
from meterstream.schema.settings import Settings
from meterstream.schema.stopping import stopped

log = logging.getLogger(__name__)

GROUP: Final = "meterstream-rater"
_TOPICS: Final = (*topics.source_ids(), topics.PRICED, topics.REJECTED, topics.CATALOG)
FETCH_BYTES_MIN: Final = 131_072
FETCH_WAIT_MS: Final = 50
"""The broker answers once it has so much, or after so long: an answer for each of publishers' small batches took two
fifths of the rater's time at 1,000 events a second. While nothing comes it is asked twenty times a second."""
METADATA_AGE_MS: Final = 10_000
"""How soon partitions that were added to a source topic are seen."""
SESSION_MS: Final = 6_000
"""How long a killed rater's partitions wait: the least that a broker allows unless it is told otherwise."""
MARKS_MAX: Final = 8
"""Commit marks that may wait for acknowledgements before reading pauses."""
QUIET_S: Final = 0.75
"""Coverage may come so much later than the commit interval where few rows flow;"""
RECORDS_A_COVERAGE: Final = 4
"""that is, where fewer records of rows than this would stand between two coverage records of a partition."""
HEALTH_INTERVAL_S: Final = 1.0
_GARBAGE_CHECKED_EVERY: Final = 50_000
"""Objects, about those of two full outboxes: rows wait, then go; they form no cycles, and looking for some among them
at the interpreter's 700 takes a tenth of the time."""
_PRODUCER_OPTIONS: Final[dict[str, Any]] = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "zstd",
    "linger_ms": 2,  # packs are batches already
    "max_batch_size": 1_000_000,
    "max_request_size": 4_194_304,
}


@dataclass(slots=True)
class _Assignment:
    """One source partition while it is ours. A new assignment of the same partition is a new object."""

    outbox: Outbox
    is_backfill: bool
    batches: Batches | None = None
    """Fetched by ourselves, and not all rated yet: the consumer waits."""


@dataclass(slots=True)
class _Mark:
    """What may be committed once these sends are acknowledged."""

    offsets: list[tuple[TopicPartition, _Assignment, int]]
    sends: list[asyncio.Future[Any]]
    began_at: float
    trace: tracing.Batch


async def run(
    settings: Settings,
    *,
    client_options: dict[str, Any],
    health: Health,
    stop: asyncio.Event,
) -> None:
    """Rates until `stop` is set, then sends and commits what it has read, and returns.

    `client_options` are aiokafka's connection options. Raises StopConsuming when going on could lose usage, UsageError
    when the topics are not as the manifest says, and whatever the clients raise.

    The rater is no named member of its group. One that came back under its name would be given its old partitions
    without a rebalance, and would not know that it leads: nobody would hand out partitions that are added.
    """
    health.write("starting")
    topics.check_partitions(await partition_counts(client_options, _TOPICS))
    compress_fast()
    producer = AIOKafkaProducer(**client_options, **_PRODUCER_OPTIONS)
    watch = PollWatch()
    consumer = guard(
        AIOKafkaConsumer(
            **client_options,
            group_id=GROUP,
            value_deserializer=watch,
            auto_offset_reset="none",
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_partition_fetch_bytes=4_194_304,
            fetch_min_bytes=FETCH_BYTES_MIN,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 3,
            max_poll_interval_ms=60_000,
            metadata_max_age_ms=METADATA_AGE_MS,
        )
    )
    catalog = PriceCatalog()
    async with CatalogFollower(client_options, catalog) as follower:
        rater = Rater(Router(topics.partitions_of(topics.PRICED)), catalog.book(), catalog.private_tenants())
        if rater.book.revision == 0:
            log.warning("the catalog holds no prices: every event will be unpriced until `price add`")
        await producer.start()
        try:
            await consumer.start()
            gc.freeze()  # modules and prices stay
            gc.set_threshold(_GARBAGE_CHECKED_EVERY)
            loop = _Loop(settings, rater, consumer, watch, producer, health, client_options)
            await run_beside(
                loop.run(stop),
                follower.follow(lambda: loop.use(catalog.book(), catalog.private_tenants())),
                loop.lag.follow(),
            )
        finally:
            await stopped(consumer)
            await producer.stop()
    health.write("stopped")


class _Loop(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(
        self,
        settings: Settings,
        rater: Rater,
        consumer: AIOKafkaConsumer,
        watch: PollWatch,
        producer: AIOKafkaProducer,
        health: Health,
        client_options: dict[str, Any],
    ) -> None:
        self._client_options = client_options
        self._settings = settings
        self._rater = rater
        self._consumer = consumer
        self._watch = watch
        self._producer = producer
        self._health = health
        self._source_ids = topics.source_ids()
        self._priced_partitions = topics.partitions_of(topics.PRICED)
        self._rejected_partitions = topics.partitions_of(topics.REJECTED)
        self._accepted = beginning.accepted_losses(settings.rater_accept_loss)
        self._assigned: dict[TopicPartition, _Assignment] = {}
        self._sends: list[asyncio.Future[Any]] = []
        self._marks: deque[_Mark] = deque()
        self._trace = _new_trace()
        self._fatal: Exception | None = None
        self._is_in_group = False
        self._is_behind = False
        """The last poll was full: company for a row is near, so it waits for a full pack, or for the next mark."""
        self._rebalances = 0
        self._batches = Durations()
        self.lag = Lag(self._end_offsets)
        self._bad_share = BadShare(alarm=settings.bad_share_alarm, pause=settings.rater_pause_on_bad_share)

    def use(self, book: Book, private_tenants: frozenset[str]) -> None:
        """From the next batch on."""
        log.info("price book: revision %d", book.revision)
        self._rater.book = book
        self._rater.private_tenants = private_tenants

    async def run(self, stop: asyncio.Event) -> None:
        settings = self._settings
        self._consumer.subscribe(list(self._source_ids), listener=self)
        least_s = settings.rater_linger_ms / 1000
        commit_s = settings.rater_commit_interval_ms / 1000
        now = time.monotonic()
        send_at, mark_at, health_at = now + least_s, now + commit_s, now
        while not stop.is_set():
            if len(self._marks) < MARKS_MAX:
                await self._read()
                await asyncio.sleep(0)  # with records at hand nothing above waits: let heartbeats and the catalog in
            else:
                await asyncio.wait(self._marks[0].sends, timeout=HEALTH_INTERVAL_S)
            now = time.monotonic()
            if now >= send_at and not self._is_behind:
                send_at = now + linger_s(least_s, await self._send_rows())
            else:
                await self._send_rows(full_only=True)
            if now >= mark_at and (self._is_behind or self._is_busy() or now >= mark_at + QUIET_S):
                await self._mark()
                mark_at = now + commit_s
            await self._commit_acknowledged(wait=False)
            if now >= health_at:
                self._report()
                health_at = now + HEALTH_INTERVAL_S
        self._health.write("draining")
        await self._mark()
        await self._commit_acknowledged(wait=True)

    # ------------------------------------------------------------------ one turn

    async def _read(self) -> None:
        if self._bad_share.is_paused:
            await self._hold()
        else:
            await self._read_on()
        if self._fatal is not None:
            raise self._fatal

    async def _hold(self) -> None:
        """Keeps our place in the group and rates nothing, neither of what the group gives us from now on."""
        self._is_behind = False
        self._consumer.pause(*self._consumer.assignment())
        # What comes all the same was fetched before the pause. Nothing of it is committed: the next life reads it.
        with suppress(NoOffsetForPartitionError, OffsetOutOfRangeError, *CLIENT_ERRORS):
            await self._consumer.getmany(timeout_ms=self._settings.rater_linger_ms or 1)

    async def _read_on(self) -> None:
        waiting = next((partition for partition, own in self._assigned.items() if own.batches is not None), None)
        if waiting is None:
            await self._poll()
        else:
            self._rate_raw(waiting, self._assigned[waiting])
        self._bad_share.update(self._rater.dispositions)

    async def _poll(self) -> None:
        self._watch.start()
        try:
            batches = await self._consumer.getmany(
                timeout_ms=self._settings.rater_linger_ms or 1, max_records=self._settings.rater_poll_records_max
            )
        except NoOffsetForPartitionError:
            return  # a partition's first assignment ever: `_assign` is about to seek to its beginning
        except OffsetOutOfRangeError as error:
            # The client's error holds {partition: offset}. One that is not ours yet was asked for before `_assign`
            # could look at it.
            lost = [partition for partition in error.args[0] if partition in self._assigned]
            if lost:
                raise beginning.out_of_range(lost) from error
            return
        except CLIENT_ERRORS as error:
            # It names no partition, and what it had of others in the same poll is gone: they all come again.
            log.warning(
                "a poll that the client cannot read is read batch by batch: %s: %s", type(error).__name__, error
            )
            if self._assigned and not await self._fetch_raw(dict(self._assigned)):
                raise
            return
        await self._rate_polled(batches)

    async def _rate_polled(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        self._is_behind = sum(map(len, batches.values())) >= self._settings.rater_poll_records_max
        odd = {}
        for partition, own in list(self._assigned.items()):
            records, next_offset = batches.get(partition, ()), own.outbox.next_offset
            if records and records[0].offset < next_offset:
                continue  # fetched before the seek that the assignment made
            position = await self._consumer.position(partition)  # known: nothing waits
            if not is_seamless(records, next_offset, position):
                odd[partition] = own
            elif records:
                self._rate(partition, own, records)
        if odd:
            await self._fetch_raw(odd)

    def _rate(self, partition: TopicPartition, own: _Assignment, records: Sequence[Any]) -> bool:
        """False when the outbox is full before their end: the rest comes again once that is sent."""
        self._trace.take_records(record.headers for record in records)
        self._rater.rate(partition.topic, own.outbox, records, is_backfill=own.is_backfill)
        if own.outbox.next_offset > records[-1].offset:
            return True
        self._consumer.seek(partition, own.outbox.next_offset)
        return False

    async def _fetch_raw(self, wanted: dict[TopicPartition, _Assignment]) -> bool:
        """What comes next in these partitions, for `_rate_raw`. False: nothing is there."""
        for partition, own in wanted.items():
            self._consumer.seek(partition, own.outbox.next_offset)
        is_any = False
        async with RawFetch(self._client_options) as raw:
            for partition, own in wanted.items():
                batches = await raw.fetch(partition, own.outbox.next_offset)
                if not batches.is_empty:
                    own.batches, is_any = batches, True
        return is_any

    def _rate_raw(self, partition: TopicPartition, own: _Assignment) -> None:
        """A piece of what was fetched; after the last one the consumer goes on behind it."""
        assert own.batches is not None
        records = own.batches.take(self._settings.rater_poll_records_max)
        is_rated = not records or self._rate(partition, own, records)
        if is_rated:
            own.outbox.advance(own.batches.next_offset, own.outbox.watermark_ms)
        if own.batches.is_over or not is_rated:
            own.batches = None
            self._consumer.seek(partition, own.outbox.next_offset)

    async def _send_rows(self, *, full_only: bool = False) -> int:
        """-> packs sent."""
        sent = 0
        for assignment in list(self._assigned.values()):
            outbox = assignment.outbox
            packs = [
                pack for partition in sorted(outbox.waiting) for pack in outbox.cut(partition, full_only=full_only)
            ]
            rejected = outbox.take_rejected()
            await self._send(topics.PRICED, packs)
            await self._send(topics.REJECTED, rejected)
            sent += len(packs)
        return sent

    async def _send(self, topic: str, records: list[Packed]) -> None:
        for record in records:
            self._sends.append(
                await self._producer.send(topic, record.value, partition=record.partition, headers=self._trace.headers)
            )

    def _is_busy(self) -> bool:
        """Whether coverage is a small part of what is sent: it goes to every partition, however little flows."""
        return len(self._sends) >= RECORDS_A_COVERAGE * self._priced_partitions

    async def _mark(self) -> None:
        """Sends what waits and the coverage that ends it; what was decided may then be committed."""
        await self._send_rows()
        hit("after_rows")
        offsets = [
            (partition, assignment, assignment.outbox.next_offset) for partition, assignment in self._assigned.items()
        ]
        outboxes = [assignment.outbox for assignment in self._assigned.values()]
        for partition in range(self._priced_partitions):
            await self._send_coverage(topics.PRICED, partition, [o.cover_priced(partition) for o in outboxes])
            hit("within_coverage")
        for partition in range(self._rejected_partitions):
            await self._send_coverage(topics.REJECTED, partition, [o.cover_rejected(partition) for o in outboxes])
        hit("after_coverage")
        if self._sends:
            self._marks.append(_Mark(offsets, self._sends, time.monotonic(), self._trace))
            self._sends, self._trace = [], _new_trace()

    async def _send_coverage(self, topic: str, partition: int, parts: list[Covered | None]) -> None:
        covered = [part for part in parts if part is not None]
        if covered:
            self._sends.append(
                await self._producer.send(
                    topic, encode_coverage(covered), partition=partition, headers=list(COVERAGE_HEADERS)
                )
            )

    async def _commit_acknowledged(self, *, wait: bool) -> None:
        """Commits the newest mark of which everything has been acknowledged; with `wait`, all marks."""
        offsets: dict[TopicPartition, int] = {}
        while self._marks and (wait or all(send.done() for send in self._marks[0].sends)):
            mark = self._marks.popleft()
            await asyncio.gather(*mark.sends)
            self._batches.observe(time.monotonic() - mark.began_at)
            mark.trace.end(records_sent=len(mark.sends))
            for partition, assignment, offset in mark.offsets:
                if self._assigned.get(partition) is assignment:
                    offsets[partition] = offset
        if offsets:
            hit("after_acknowledgement")
            await self._consumer.commit(offsets)
            hit("after_commit")

    def _report(self) -> None:
        troubles = (self._rater.faults.reason, self._bad_share.reason, self.lag.trouble)
        reasons = [reason for reason in troubles if reason is not None]
        self._health.write(
            "degraded" if reasons else "running",
            "; ".join(reasons) or None,
            self.lag.records(self._next_offsets()) if self._is_in_group else None,
            **{
                Metric.LAG_SECONDS: self.lag.seconds(self._next_offsets()) if self._is_in_group else None,
                Metric.REBALANCES_TOTAL: self._rebalances,
                Metric.BATCH_SECONDS: self._batches.figures(),
                Metric.RATER_PARTITIONS: len(self._assigned),
                Metric.RATER_PRICE_REVISION: self._rater.book.revision,
                Metric.RATER_EVENTS_TOTAL: dict(self._rater.dispositions),
            },
        )

    def _next_offsets(self) -> dict[TopicPartition, int | None]:
        return {
            partition: None if (assignment := self._assigned.get(partition)) is None else assignment.outbox.next_offset
            for partition in self._consumer.assignment()
        }

    async def _end_offsets(self) -> dict[TopicPartition, int]:
        """For the lag; also finds a topic that ends before what has been read of it, which ends the loop."""
        read = {partition: assignment.outbox.next_offset for partition, assignment in self._assigned.items()}
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(list(self._consumer.assignment()))
        lost = [partition for partition, offset in read.items() if ends.get(partition, offset) < offset]
        if lost:
            self._fatal = beginning.ends_earlier(lost)
        return ends

    # ------------------------------------------------------------------ rebalance (the coordinator's task)

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        """What was read but not committed is read again by the next owner; consumers skip the repeats."""
        self._is_in_group = False
        for partition in revoked:
            self._assigned.pop(partition, None)

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        try:
            # What is committed lies between the two as they are before and after: both only grow.
            begin = await self._consumer.beginning_offsets(assigned)
            committed = {partition: await self._consumer.committed(partition) for partition in assigned}
            end = await self._consumer.end_offsets(assigned)
            beginning.check_unread(begin, committed, self._accepted)
            # From here on nothing waits. What was fetched meanwhile belonged to nobody and was dropped in `_read`:
            # the seek makes it come again.
            for partition in assigned:
                self._assigned[partition] = self._assign(
                    partition, committed[partition], begin[partition], end[partition]
                )
            self.lag.hear(end)
            self._is_in_group = True
            self._rebalances += 1
        except Exception as error:  # aiokafka would only log it: the loop must end with it
            self._fatal = error

    def _assign(self, partition: TopicPartition, committed: int | None, begin: int, end: int) -> _Assignment:
        next_offset = beginning.next_offset(partition, committed, begin, end)
        self._consumer.seek(partition, next_offset)
        outbox = Outbox(
            SourcePartition(self._source_ids[partition.topic], partition.partition),
            start_offset=committed,
            next_offset=next_offset,
            priced=self._priced_partitions,
            rejected=self._rejected_partitions,
        )
        return _Assignment(outbox, is_backfill=partition.topic == topics.BACKFILL)


def _new_trace() -> tracing.Batch:
    """Of what is decided between two marks."""
    return tracing.Batch("rate usage", "consumer", **{"messaging.consumer.group.name": GROUP})
