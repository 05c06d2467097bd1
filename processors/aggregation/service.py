"""The aggregator's loop: fold what comes, and at every flush send what `cut` gives in its order; then acknowledge.

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
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from meterstream.processors.aggregation import app
from meterstream.processors.aggregation.budgets import Rules
from meterstream.processors.aggregation.catalog import BudgetCatalog
from meterstream.processors.aggregation.cut import Cut, EncodedAlert, Keyed, cut, cut_alerts
from meterstream.processors.aggregation.fold import Partition
from meterstream.processors.aggregation.loading import Loader, decode, lost_states
from meterstream.processors.aggregation.pulse import Pulse, Standstill
from meterstream.processors.aggregation.reporting import Reporter
from meterstream.processors.aggregation.reread import LogReader
from meterstream.processors.catalog import CatalogFollower
from meterstream.processors.partition_counts import partition_counts
from meterstream.processors.tasks import run_beside
from meterstream.schema import topics, tracing
from meterstream.schema.failpoints import hit
from meterstream.schema.health import Health
from meterstream.schema.metrics import Durations, Metric
from meterstream.schema.settings import Settings

log = logging.getLogger(__name__)

_TOPICS: Final = (topics.PRICED, topics.AGGREGATES, topics.ALERTS, topics.AGGREGATOR_STATE, topics.CATALOG)
HEALTH_INTERVAL_S: Final = 1.0
PULSE_S: Final = 0.1
STILL_S: Final = 1.0
"""After a longer standstill the log brings at once what came meanwhile, maybe before the catalog tells of budgets that
changed in that time."""
ALERTS_S: Final = 0.05
EVENTS_MAX: Final = 5_000
COLLECT_EVERY: Final = 20_000
"""New objects between two collections of garbage: the live state is many small lists, and none of it is garbage."""
CLOSE_S: Final = 10
SEND_S: Final = 45.0
"""A flush that takes longer has lost its broker, or Faust its producer: the process ends."""
STOP_TIMEOUT_S: Final = 15.0
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
    async with (
        CatalogFollower(client_options, catalog) as follower,
        LogReader(client_options) as reader,
        LogReader(client_options, topics.AGGREGATOR_STATE) as state,
    ):
        await producer.start()
        try:
            aggregator = _Aggregator(
                settings, client_options, reader, state, producer, health, follower, catalog.rules()
            )
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
        state: LogReader,
        producer: AIOKafkaProducer,
        health: Health,
        follower: CatalogFollower,
        rules: Rules,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._producer = producer
        self._health = health
        self._follower = follower
        self._rules = rules
        self._assigned: frozenset[int] = frozenset()
        self._live: dict[int, Partition] = {}
        self._alerting = asyncio.Lock()
        """See `_turn_to_alert`."""
        self._events: list[Any] = []
        """Delivered, folded, not yet acknowledged; at most EVENTS_MAX."""
        self._has_flushed = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pulse = Pulse()
        self._standstill = Standstill(self._pulse, STILL_S)
        self._is_cutting = False
        """Alerts that came meanwhile must not overtake those that were cut."""
        self._is_ending = False
        """What comes after the last cut is not in the state: whoever reads it again raises its alerts."""
        self._flush_at = 0.0
        self._publish_at = 0.0
        self._records_told = 0
        self._sent: Tally[str] = Tally()
        self._gone_tally: Tally[str] = Tally()
        self._rebalances = 0
        self._flushes = Durations()
        self._host = app.Host(
            client_options,
            instance=settings.instance,
            folder=settings.home / "aggregator",
            on_event=self._on_event,
            on_assigned=self._on_assigned,
        )
        self._loader = Loader(
            reader,
            state,
            self._host.store,
            self._newest_rules,
            accepted=lost_states(settings.aggregator_bootstrap),
        )
        self._reporter = Reporter(health, reader, self._live)

    def use(self, rules: Rules) -> None:
        """From the next flush on."""
        self._rules = rules
        log.info("budgets: %d", len(rules))

    async def _newest_rules(self) -> Rules:
        # Asked of a consumer that does not fetch: the follower's answer would wait behind its fetch.
        await self._follower.catch_up(await self._reader.end_of(topics.CATALOG))
        return self._rules

    async def run(self, stop: asyncio.Event) -> None:
        beside = [
            asyncio.create_task(self._keep_pulse()),
            asyncio.create_task(self._preload()),
            asyncio.create_task(self._keep_loaded()),
            asyncio.create_task(self._keep_alerting()),
            asyncio.create_task(self._keep_reporting()),
            asyncio.create_task(self._reporter.lag.follow()),
        ]
        try:
            await self._or_failure(self._host.start())
            self._standstill.watch()
            while not stop.is_set():
                await self._turn()
                await self._wait(stop)
            self._health.write("draining")
            self._is_ending = True
            await self._flush(writes_all=True)
            self._standstill.leave()  # what is folded from here on is neither told nor stored
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
        with self._standstill.ending() as is_behind:
            if is_behind:
                async with asyncio.timeout(SEND_S):
                    await self._newest_rules()
            await self._flush()  # takes them

    # ------------------------------------------------------------------ delivery (Faust calls)

    def _on_assigned(self, numbers: Collection[int]) -> None:
        self._assigned = frozenset(numbers)
        self._rebalances += 1
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
        await self._standstill.over()
        number, offset = event.message.partition, event.message.offset
        partition = self._live.get(number) or await self._load_one(number)
        if partition is None:
            return  # not ours any more
        if offset > partition.next_offset:
            async with self._loader.reading:
                await self._loader.catch_up([(partition, offset)])
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

    async def _preload(self) -> None:
        try:
            await self._loader.preload(lambda: self._host.is_assigned and self._is_partial())
        except Exception as error:
            self._fail(error)

    def _is_partial(self) -> bool:
        return len(self._assigned) < topics.partitions_of(topics.PRICED)

    async def _keep_loaded(self) -> None:
        """Partitions on which nothing happens are loaded too: their state must not grow old.

        What is loaded follows the log by itself until Faust delivers, which may take seconds more.
        """
        try:
            while True:
                await asyncio.sleep(PULSE_S)
                if self._host.is_assigned and not (self._host.is_settled and self._live.keys() >= self._assigned):
                    async with self._loader.reading:
                        if missing := self._assigned - self._live.keys():
                            await self._load(missing)
                        else:
                            ends = await self._reader.ends(self._live)
                            await self._loader.catch_up([(each, ends[number]) for number, each in self._live.items()])
        except Exception as error:
            self._fail(error)

    async def _load_one(self, number: int) -> Partition | None:
        async with self._loader.reading:
            if number not in self._live and number in self._assigned:
                await self._load(self._assigned - self._live.keys())
        return self._live.get(number)

    async def _load(self, numbers: Collection[int]) -> None:
        """State as it is stored, then the log: up to where the buckets agree, then, live already, to its end."""
        began = time.monotonic()
        ends = await self._reader.ends(numbers)
        loaded = await self._loader.restore(numbers)
        await self._loader.catch_up([(partition, partition.ready_offset) for partition in loaded.values()])
        for number in [number for number in loaded if number not in self._assigned]:
            del loaded[number]  # somebody else's by now
        self._live.update(loaded)
        await self._loader.catch_up([(partition, ends[number]) for number, partition in loaded.items()])
        log.info(
            "live: partitions %s; %d records read again in %.2f s",
            ",".join(map(str, sorted(loaded))),
            self._loader.records_read - self._records_told,
            time.monotonic() - began,
        )
        self._records_told = self._loader.records_read

    # ------------------------------------------------------------------ flush

    async def _flush(self, *, writes_all: bool = False) -> None:
        """A cut of every partition, sent in its order, then the acknowledgement of what came before the cuts."""
        self._check_pulse()
        self._raise_failure()
        now = time.monotonic()
        self._flush_at = now + self._settings.aggregator_flush_ms / 1000
        publishes_all = writes_all or now >= self._publish_at
        if publishes_all:
            self._publish_at = now + self._settings.aggregates_interval_ms / 1000
        events, self._events = self._events, []
        self._has_flushed.set()
        trace = tracing.Batch("count usage", "consumer", **{"messaging.consumer.group.name": app.APP_ID})
        if events:
            trace.take_records(map(app.headers_of, events))
        generation = self._host.generation
        cuts = await self._cut_all(publishes_all=publishes_all, writes_all=writes_all)
        async with asyncio.timeout(SEND_S):
            await self._send_all(cuts)
        trace.end(records=len(events))
        self._flushes.observe(time.monotonic() - now)
        if generation == self._host.generation:
            app.acknowledge(events)
        hit("after_acknowledgement")

    async def _cut_all(self, *, publishes_all: bool, writes_all: bool) -> dict[int, Cut]:
        """Each partition in one piece. Between two of them others may go on: after a start all windows are news."""
        cuts = {}
        rules = self._rules if self._host.is_settled else None  # what begins while partitions move may begin twice
        self._is_cutting = True
        try:
            for number, partition in list(self._live.items()):
                if self._live.get(number) is partition:
                    cuts[number] = cut(partition, rules, publishes_all=publishes_all, writes_all=writes_all)
                    await asyncio.sleep(0)
        finally:
            self._is_cutting = False
        return cuts

    async def _send_all(self, cuts: Mapping[int, Cut]) -> None:
        stores = any(each.stores for each in cuts.values())
        begins = any(each.beginnings for each in cuts.values())
        _hit("after_cut", stores)
        # Waits for those that are on their way, too: the state will say that they were sent.
        async with self._turn_to_alert():
            await self._send_alerts([alert for each in cuts.values() for alert in each.alerts])
            _hit("after_alerts", stores)
            await _acknowledged(self._store({number: each.beginnings for number, each in cuts.items()}))
            _hit("after_beginnings", begins)
            await self._send_alerts([alert for each in cuts.values() for alert in each.begun])
            _hit("after_begun", begins)
        aggregates = [
            sent for number, each in cuts.items() for sent in await self._send_batches(number, each.aggregates)
        ]
        await _acknowledged(aggregates)
        _hit("after_aggregates", stores)
        await _acknowledged(self._store({number: each.state for number, each in cuts.items()}))
        _hit("after_state", stores)
        self._sent["aggregates"] += sum(len(each.aggregates) for each in cuts.values())

    def _store(self, state: Mapping[int, Sequence[Keyed]]) -> list[Awaitable[Any]]:
        records = [(number, key, value) for number, each in state.items() for key, value in each]
        self._sent["state"] += len(records)
        self._sent["state_bytes"] += sum(len(value or b"") for _, _, value in records)
        return [self._host.store(*record) for record in records]

    async def _keep_alerting(self) -> None:
        """An alert does not wait for the next flush, nor for what a flush has to send besides."""
        try:
            while True:
                await asyncio.sleep(ALERTS_S)
                if not (self._is_cutting or self._is_ending):
                    alerts = [alert for each in self._live.values() for alert in cut_alerts(each)]
                    async with self._turn_to_alert():
                        await self._send_alerts(alerts)
        except Exception as error:
            self._fail(error)

    @asynccontextmanager
    async def _turn_to_alert(self) -> AsyncIterator[None]:
        """Whoever gets it knows that what was cut before is acknowledged: alerts, and what they are counted from."""
        async with self._alerting:
            self._raise_failure()
            try:
                yield
            except Exception as error:
                self._fail(error)  # before anybody else goes on: neither alerts nor state may follow
                raise

    async def _send_alerts(self, alerts: Sequence[EncodedAlert]) -> None:
        """In one's turn."""
        await _acknowledged(
            [await self._producer.send(topics.ALERTS, value, key=tenant.encode()) for tenant, value in alerts]
        )
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

    async def _keep_reporting(self) -> None:
        try:
            while True:
                if not self._host.is_assigned or self._assigned - self._live.keys():
                    self._reporter.loading()
                else:
                    self._reporter.report(
                        is_reading=self._loader.reading.locked(),
                        rows=self._gone_tally,
                        sent=self._sent,
                        budgets=len(self._rules),
                        figures={
                            Metric.REBALANCES_TOTAL: self._rebalances,
                            Metric.BATCH_SECONDS: self._flushes.figures(),
                        },
                    )
                await asyncio.sleep(HEALTH_INTERVAL_S)
        except Exception as error:
            self._fail(error)

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

    async def _keep_pulse(self) -> None:
        """Notices that the process stood still. Not airtight, and need not be: late state does no harm."""
        while True:
            self._check_pulse()
            self._standstill.notice()
            self._pulse.beat()
            await asyncio.sleep(PULSE_S)

    def _check_pulse(self) -> None:
        still_s = self._pulse.stood_still_s()
        if still_s > app.SESSION_S / 2:
            self._fail(Paused(f"this process stood still for {still_s:.0f} s: its partitions may be another's now"))

    def _raise_failure(self) -> None:
        if self._failed.done():
            self._failed.result()


def _hit(failpoint: str, counts: bool) -> None:
    """Counts the flushes that store state, or begin something: in the others less can go wrong."""
    if counts:
        hit(failpoint)


async def _acknowledged(sends: Collection[Awaitable[Any]]) -> None:
    if sends:
        await asyncio.gather(*sends)
