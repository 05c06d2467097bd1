"""The aggregator's loop: fold what comes, and at every flush send alerts, aggregates, state; then acknowledge.

Which records are news is decided by their offset alone. What Faust brings again is skipped, what it leaves
out is read from the log, and state that another process wrote, however late, only means reading more.

Any error that is not understood ends the process; the supervisor starts it again, and the log says where.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from meterstream.processors.aggregation import app, checkpoint
from meterstream.processors.aggregation.budgets import Rules, counted_from
from meterstream.processors.aggregation.catalog import BudgetCatalog
from meterstream.processors.aggregation.cut import Cut, EncodedAlert, Keyed, cut, cut_alerts
from meterstream.processors.aggregation.fold import BUCKETS, Bucket, Partition
from meterstream.processors.aggregation.reread import LogReader, gather
from meterstream.processors.catalog import CatalogFollower
from meterstream.processors.partition_counts import partition_counts
from meterstream.processors.tasks import run_beside
from meterstream.schema import topics
from meterstream.schema.errors import OffsetOutOfRange
from meterstream.schema.failpoints import hit
from meterstream.schema.health import Health
from meterstream.schema.lag import Lag
from meterstream.schema.metrics import Metric
from meterstream.schema.pack import KIND_HEADER, Coverage, Pack, decode_coverage, decode_pack
from meterstream.schema.settings import Settings

log = logging.getLogger(__name__)

_TOPICS: Final = (topics.PRICED, topics.AGGREGATES, topics.ALERTS, topics.AGGREGATOR_STATE, topics.CATALOG)
HEALTH_INTERVAL_S: Final = 1.0
PULSE_S: Final = 0.1
ALERTS_S: Final = 0.05
EVENTS_MAX: Final = 5_000
COLLECT_EVERY: Final = 20_000
"""New objects between two collections of garbage: the live state is many small lists, and none of it is garbage."""
STALL_S: Final = 30.0
CLOSE_S: Final = 10
SEND_S: Final = 45.0
"""A flush that takes longer has lost its broker, or Faust its producer: the process ends."""
STOP_TIMEOUT_S: Final = 15.0
REREAD_RECORDS_MAX: Final = 2_000_000
"""A restart that would read more than this raises the alarm."""
MARGIN_SHARE_MIN: Final = 0.1
"""The alarm when the oldest state is nearer to the log's start than this share of the log."""
_PRODUCER_OPTIONS: Final[dict[str, Any]] = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "zstd",
    "linger_ms": 2,
    "max_batch_size": 262_144,
    "max_request_size": 1_048_576,
    "request_timeout_ms": 15_000,
}


class Paused(Exception):
    """This process stood still for so long that another may own its partitions."""


class Stalled(Exception):
    """Records wait, and none is delivered."""


async def run(settings: Settings, *, client_options: dict[str, Any], health: Health, stop: asyncio.Event) -> None:
    """Aggregates until `stop` is set, then stores everything and leaves the group.

    `client_options` are aiokafka's connection options. Raises StopConsuming and ContractError when going on could lose
    or double usage, UsageError when the topics are not as the manifest says, and whatever the clients raise.
    """
    health.write("starting")
    gc.set_threshold(COLLECT_EVERY, *gc.get_threshold()[1:])
    topics.check_partitions(await partition_counts(client_options, _TOPICS))
    catalog = BudgetCatalog()
    producer = AIOKafkaProducer(**client_options, **_PRODUCER_OPTIONS)
    async with CatalogFollower(client_options, catalog) as follower, LogReader(client_options) as reader:
        await producer.start()
        try:
            aggregator = _Aggregator(settings, client_options, reader, producer, health, catalog.rules())
            await run_beside(aggregator.run(stop), follower.follow(lambda: aggregator.use(catalog.rules())))
        finally:
            await producer.stop()
    health.write("stopped")


class _Aggregator:
    def __init__(
        self,
        settings: Settings,
        client_options: Mapping[str, Any],
        reader: LogReader,
        producer: AIOKafkaProducer,
        health: Health,
        rules: Rules,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._producer = producer
        self._health = health
        self._rules = rules
        self._assigned: frozenset[int] = frozenset()
        self._live: dict[int, Partition] = {}
        self._reading = asyncio.Lock()
        """Held while the log is read again: one range at a time."""
        self._alerting = asyncio.Lock()
        """Held while alerts are sent; whoever gets it knows that all that were taken before are acknowledged."""
        self._events: list[Any] = []
        """Delivered, folded, not yet acknowledged; at most EVENTS_MAX."""
        self._has_flushed = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pulse_at = time.monotonic()
        self._flush_at = 0.0
        self._publish_at = 0.0
        self._place = 0
        self._moved_at = time.monotonic()
        self._begins: Mapping[int, int] = {}
        self._ends: Mapping[int, int] = {}
        self._lag = Lag(self._ask)
        self._sent: Tally[str] = Tally()
        self._gone_tally: Tally[str] = Tally()
        names = topics.source_names()
        self._known_sources = frozenset(names)
        self._silent_sources = frozenset(number for number, name in names.items() if name == topics.BACKFILL)
        self._retired_sources = frozenset(topics.retired_source_ids())
        self._host = app.Host(
            client_options,
            instance=settings.instance,
            folder=settings.home / "aggregator",
            on_event=self._on_event,
            on_assigned=self._on_assigned,
        )

    def use(self, rules: Rules) -> None:
        """From now on."""
        self._rules = rules
        for partition in self._live.values():
            partition.use(rules)
        log.info("budgets: %d", len(rules))

    async def run(self, stop: asyncio.Event) -> None:
        beside = [
            asyncio.create_task(self._pulse()),
            asyncio.create_task(self._keep_loaded()),
            asyncio.create_task(self._keep_alerting()),
            asyncio.create_task(self._keep_reporting()),
            asyncio.create_task(self._lag.follow()),
        ]
        try:
            await self._or_failure(self._host.start())
            while not stop.is_set():
                await self._turn()
                await self._wait(stop)
            self._health.write("draining")
            await self._flush(writes_all=True)
            await self._leave()
        except Exception as error:
            log.error("the aggregator ends: %s: %s", type(error).__name__, error)
            signal.alarm(CLOSE_S)  # with a broker that is away some clients never close: the process ends all the same
            raise
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _turn(self) -> None:
        if self._host.crash is not None:
            raise self._host.crash
        await self._flush()

    # ------------------------------------------------------------------ delivery (Faust calls)

    def _on_assigned(self, numbers: Collection[int]) -> None:
        self._assigned = frozenset(numbers)
        self._events.clear()  # they come again, here or elsewhere
        self._has_flushed.set()
        for number in [number for number in self._live if number not in self._assigned]:
            self._gone_tally += self._live.pop(number).tally

    async def _on_event(self, event: Any) -> None:
        try:
            await self._take(event)
        except BaseException as error:
            self._fail(error)
            raise

    async def _take(self, event: Any) -> None:
        number, offset = event.message.partition, event.message.offset
        partition = self._live.get(number) or await self._load_one(number)
        if partition is None:
            return  # not ours any more
        if offset > partition.next_offset:
            async with self._reading:
                await self._catch_up({number: (partition, offset)})
        if self._live.get(number) is not partition:
            return
        if offset == partition.next_offset:
            partition.apply(offset, decode(event.message.headers, event.value))
        self._events.append(event)
        if len(self._events) >= EVENTS_MAX:
            self._has_flushed.clear()
            await self._has_flushed.wait()

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done() and not isinstance(error, asyncio.CancelledError):
            self._failed.set_exception(error)

    # ------------------------------------------------------------------ loading

    async def _keep_loaded(self) -> None:
        """Partitions on which nothing happens are loaded too: their state must not grow old."""
        try:
            while True:
                await asyncio.sleep(PULSE_S)
                if self._host.is_settled and self._assigned - self._live.keys():
                    async with self._reading:
                        if missing := self._assigned - self._live.keys():
                            await self._load(missing)
        except Exception as error:
            self._fail(error)

    async def _load_one(self, number: int) -> Partition | None:
        async with self._reading:
            if number not in self._live and number in self._assigned:
                await self._load(self._assigned - self._live.keys())
        return self._live.get(number)

    async def _load(self, numbers: Collection[int]) -> None:
        """State from the table, then the log: up to where the buckets agree, then, live already, to its end."""
        began = time.monotonic()
        begins, ends = await self._reader.begins(numbers), await self._reader.ends(numbers)
        loaded = {number: await self._restore(number, begins[number]) for number in numbers}
        gc.freeze()  # what was loaded stays: looking through it again and again finds nothing
        rules = self._rules
        for partition in loaded.values():
            partition.use(rules)
        reread = sum(ends[number] - partition.next_offset for number, partition in loaded.items())
        await self._catch_up({number: (partition, partition.ready_offset) for number, partition in loaded.items()})
        for number in [number for number in loaded if number not in self._assigned]:
            del loaded[number]  # somebody else's by now
        for number, partition in loaded.items():
            if rules is not self._rules:
                partition.use(self._rules)
            self._live[number] = partition
        await self._catch_up({number: (partition, ends[number]) for number, partition in loaded.items()})
        log.info(
            "live: partitions %s; %d records read again in %.2f s",
            ",".join(map(str, sorted(loaded))),
            reread,
            time.monotonic() - began,
        )

    async def _restore(self, number: int, begin: int) -> Partition:
        with _no_collection():
            partition = checkpoint.restore(
                number,
                checkpoint.choose(self._host.stored(), number),
                self._rules,
                known_sources=self._known_sources,
                silent_sources=self._silent_sources,
                retired_sources=self._retired_sources,
            )
        if partition.low_offset < begin:
            return await self._bootstrap(number, partition, begin)
        partition.next_offset = max(partition.next_offset, begin)  # fewer ids are known than could be, no more
        return partition

    async def _bootstrap(self, number: int, partition: Partition, begin: int) -> Partition:
        """A beginning in mid-log, only where somebody asked for it."""
        if not self._settings.aggregator_bootstrap:
            raise OffsetOutOfRange(
                f"{topics.PRICED}/{number}: the state holds everything before offset {partition.low_offset}, but the "
                f"topic begins at {begin}: what lies between is not there any more. To count from here on, with every "
                "window and period that began earlier marked partial, set METERSTREAM_AGGREGATOR_BOOTSTRAP=true for "
                "one start; Postgres has all of it. See docs/operate.md"
            )
        sent_ms = (
            await self._reader.first_time_ms(number, begin)
            if (await self._reader.ends([number]))[number] > begin
            else time.time_ns() // 1_000_000
        )
        log.warning("%s/%d: counting begins at offset %d; what is older is partial", topics.PRICED, number, begin)
        buckets = [Bucket(begin, has_rows=True) for _ in range(BUCKETS)]
        for bucket in buckets:
            bucket.is_unsaved = True  # all at once, so that the next start has a whole set
        fresh = Partition(
            number,
            known_sources=self._known_sources,
            silent_sources=self._silent_sources,
            retired_sources=self._retired_sources,
            buckets=buckets,
            next_offset=begin,
            complete_from_ms=counted_from(sent_ms),
        )
        fresh.gone = partition.windows()  # what was published of them is not continued
        return fresh

    async def _catch_up(self, targets: Mapping[int, tuple[Partition, int]]) -> None:
        """Reads the log up to the targets into the same fold. `_reading` is held."""
        ranges = {number: (partition.next_offset, end) for number, (partition, end) in targets.items()}
        async for records in self._reader.read(ranges):
            partition = targets[records[0].partition][0]
            for record in records:
                if record.offset < partition.next_offset:
                    continue
                if record.offset < partition.low_offset:
                    gather(partition, record)
                else:
                    partition.apply(record.offset, decode(record.headers, record.value))

    # ------------------------------------------------------------------ flush

    async def _flush(self, *, writes_all: bool = False) -> None:
        """One cut of every partition without an await, then alerts → aggregates → state → acknowledgement."""
        self._check_pulse()
        self._raise_failure()
        now = time.monotonic()
        self._flush_at = now + self._settings.aggregator_flush_ms / 1000
        publishes_all = writes_all or now >= self._publish_at
        if publishes_all:
            self._publish_at = now + self._settings.aggregates_interval_ms / 1000
        events, self._events = self._events, []
        self._has_flushed.set()
        generation = self._host.generation
        cuts = {
            number: cut(partition, publishes_all=publishes_all, writes_all=writes_all)
            for number, partition in self._live.items()
        }
        async with asyncio.timeout(SEND_S):
            await self._send_all(cuts)
        if generation == self._host.generation:
            app.acknowledge(events)
        hit("after_acknowledgement")

    async def _send_all(self, cuts: Mapping[int, Cut]) -> None:
        hit("after_cut")
        # Waits for those that are on their way, too: the state will say that they were sent.
        await self._send_alerts([alert for each in cuts.values() for alert in each.alerts])
        self._raise_failure()
        hit("after_alerts")
        aggregates = [
            sent for number, each in cuts.items() for sent in await self._send_batches(number, each.aggregates)
        ]
        await _acknowledged(aggregates)
        hit("after_aggregates")
        state = [self._host.store(number, key, value) for number, each in cuts.items() for key, value in each.state]
        await _acknowledged(state)
        hit("after_state")
        self._sent["aggregates"] += sum(len(each.aggregates) for each in cuts.values())
        self._sent["state"] += len(state)
        self._sent["state_bytes"] += sum(len(value or b"") for each in cuts.values() for _, value in each.state)

    async def _keep_alerting(self) -> None:
        """An alert does not wait for the next flush, nor for what a flush has to send besides."""
        try:
            while True:
                await asyncio.sleep(ALERTS_S)
                await self._send_alerts([alert for each in self._live.values() for alert in cut_alerts(each)])
        except Exception as error:
            self._fail(error)

    async def _send_alerts(self, alerts: Sequence[EncodedAlert]) -> None:
        async with self._alerting:
            try:
                await _acknowledged(
                    [await self._producer.send(topics.ALERTS, value, key=tenant.encode()) for tenant, value in alerts]
                )
            except Exception as error:
                self._fail(error)  # before anybody else goes on: no state may follow
                raise
            self._sent["alerts"] += len(alerts)

    async def _send_batches(self, number: int, records: Sequence[Keyed]) -> list[asyncio.Future[Any]]:
        """To `usage.aggregates`, in order; whole batches cost the client an eighth of record after record."""
        sends: list[asyncio.Future[Any]] = []
        left = deque(records)
        while left:
            batch = self._producer.create_batch()
            while left and batch.append(key=left[0].key, value=left[0].value, timestamp=None) is not None:
                left.popleft()
            sends.append(await self._producer.send_batch(batch, topics.AGGREGATES, partition=number))
        return sends

    async def _leave(self) -> None:
        """Faust waits for the acknowledgement of what it has delivered: go on until it has left."""
        leaving = asyncio.create_task(self._host.stop())
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while not leaving.done():
                events, self._events = self._events, []
                app.acknowledge(events)  # what was not flushed is read again from the log
                await asyncio.wait([leaving], timeout=PULSE_S)
            await leaving

    # ------------------------------------------------------------------ health

    async def _ask(self) -> Mapping[tuple[str, int], int]:
        """For the lag, and for the alarms."""
        live = list(self._live)
        self._begins, self._ends = await self._reader.begins(live), await self._reader.ends(live)
        return {(topics.PRICED, number): end for number, end in self._ends.items()}

    async def _keep_reporting(self) -> None:
        try:
            while True:
                self._report()
                await asyncio.sleep(HEALTH_INTERVAL_S)
        except Exception as error:
            self._fail(error)

    def _report(self) -> None:
        now = time.monotonic()
        live = self._live
        if not self._host.is_settled or self._assigned - live.keys():
            self._moved_at = now
            self._health.write("starting")  # state and log are being read: nobody knows how far it is
            return
        lag = self._lag.records({(topics.PRICED, number): each.next_offset for number, each in live.items()})
        self._check_progress(lag, now)
        reread = sum(max(0, self._ends.get(number, 0) - reread_from(each)) for number, each in live.items())
        reasons = [reason for reason in (self._alarm(reread), self._lag.trouble) if reason is not None]
        tally = sum((partition.tally for partition in live.values()), self._gone_tally)
        self._health.write(
            "degraded" if reasons else "running",
            "; ".join(reasons) or None,
            lag,
            **{
                Metric.AGGREGATOR_PARTITIONS: len(live),
                Metric.AGGREGATOR_ROWS_TOTAL: dict(tally),
                Metric.AGGREGATOR_SENT_TOTAL: dict(self._sent),
                Metric.AGGREGATOR_BUDGETS: len(self._rules),
                Metric.AGGREGATOR_REREAD_RECORDS: reread,
                Metric.AGGREGATOR_DUPLICATES_HORIZON_SECONDS: _horizon_s(live.values()),
            },
        )

    def _check_progress(self, lag: int | None, now: float) -> None:
        place = sum(partition.next_offset for partition in self._live.values())
        if not lag or place != self._place:
            self._place, self._moved_at = place, now
        elif now - self._moved_at > STALL_S and not self._reading.locked():
            raise Stalled(f"{lag} records wait, and nothing was delivered for {STALL_S:.0f} s")

    def _alarm(self, reread: int) -> str | None:
        if reread > REREAD_RECORDS_MAX:
            return f"a restart would read {reread} records again: it takes some seconds for each 100,000"
        for number, partition in self._live.items():
            begin, end = self._begins.get(number, 0), self._ends.get(number, 0)
            if begin and low(partition) - begin < MARGIN_SHARE_MIN * (end - begin):
                return (
                    f"{topics.PRICED}/{number}: the oldest state needs offset {low(partition)}, and the topic begins "
                    f"at {begin}: raise the topic's retention"
                )
        return None

    # ------------------------------------------------------------------ waiting

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until the next flush, the end, or an error of the delivery."""
        waiting: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait(
                [waiting, self._failed],
                timeout=max(self._flush_at - time.monotonic(), PULSE_S),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            waiting.cancel()
        self._raise_failure()

    async def _or_failure(self, step: Awaitable[None]) -> None:
        task: asyncio.Future[None] = asyncio.ensure_future(step)
        await asyncio.wait([task, self._failed], return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            task.cancel()
        self._raise_failure()
        await task

    async def _pulse(self) -> None:
        """Notices that the process stood still. Not airtight, and need not be: late state does no harm."""
        while True:
            self._check_pulse()
            self._pulse_at = time.monotonic()
            await asyncio.sleep(PULSE_S)

    def _check_pulse(self) -> None:
        still_s = time.monotonic() - self._pulse_at
        if still_s > app.SESSION_S / 2:
            self._fail(Paused(f"this process stood still for {still_s:.0f} s: its partitions may be another's now"))

    def _raise_failure(self) -> None:
        if self._failed.done():
            self._failed.result()


def low(partition: Partition) -> int:
    """The offset up to which the whole state is stored: the log must hold everything after it."""
    return min(bucket.folded for bucket in partition.buckets)


def reread_from(partition: Partition) -> int:
    """The offset from which a restart would read: for the ids it goes further back than for the state."""
    return min(low(partition), partition.claims.horizon.offset)


def decode(headers: Iterable[tuple[str, bytes]] | Mapping[str, bytes] | None, value: bytes) -> Pack | Coverage:
    """One record of `usage.priced`. Raises RecordUnreadable."""
    names = headers if isinstance(headers, Mapping) else [name for name, _ in headers or ()]
    return decode_coverage(value) if KIND_HEADER in names else decode_pack(value)


@contextmanager
def _no_collection() -> Iterator[None]:
    """While a state is loaded nothing becomes garbage: collecting would take three quarters of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _acknowledged(sends: Collection[Awaitable[Any]]) -> None:
    if sends:
        await asyncio.gather(*sends)


def _horizon_s(live: Iterable[Partition]) -> int | None:
    """How far back every partition knows ids, in seconds of the log; None where no partition forgets any yet."""
    known = [
        (partition.watermark_ms - partition.claims.oldest_appended_ms) // 1000
        for partition in live
        if partition.claims.oldest_appended_ms is not None and partition.claims.horizon.rows
    ]
    return min(known, default=None)
