"""The Postgres sink as a role: consumer, session and upkeep of the partitions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord

from meterstream.schema import topics
from meterstream.schema.errors import RecordUnreadable, UsageError
from meterstream.schema.health import Health
from meterstream.schema.metrics import Metric
from meterstream.schema.settings import Settings
from meterstream.schema.stopping import stopped
from meterstream.sinks.consume import ConsumeLoop, Limits, Partition
from meterstream.sinks.postgres import fence, partitions, rollups, transaction
from meterstream.sinks.postgres.batch import Taken, decode, decode_live, judge, weight
from meterstream.sinks.postgres.connection import Connection, connect
from meterstream.sinks.postgres.refusal import Refusals

log = logging.getLogger(__name__)

GROUP: Final = "meterstream-sink-postgres"
LIVE_TOPICS: Final = (topics.ALERTS, topics.AGGREGATES)
TOPICS: Final = (topics.PRICED, topics.REJECTED, *LIVE_TOPICS)
UPKEEP_INTERVAL_S: Final = 3600.0
UPKEEP_RETRY_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 2.0
METADATA_AGE_MS: Final = 10_000
FETCH_BYTES_MIN: Final = 262_144
FETCH_WAIT_MS: Final = 100
"""The broker answers once it has so much, or after so long: an answer for each record that comes costs both sides more
than the record. A batch waits longer than that."""
COLLECT_EVERY: Final = 200_000
"""Objects made and not yet freed. A batch is many objects without a cycle, all freed at its end: at the default of 700
the collector looks through them again and again and finds nothing, which costs a tenth of the sink's time."""
CLOCK_AHEAD_MAX: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How a round of upkeep went. `warning`: what a person should do something about."""

    ledger_leaves: int | None = None
    leaves_ahead: int | None = None
    warning: str | None = None


class PostgresSink:
    """A `meterstream.sinks.consume.Sink`: each flush is one transaction of `transaction.store`."""

    def __init__(
        self, dsn: str, *, cluster_id: str, policy: partitions.Policy, known_sources: Collection[int] | None = None
    ) -> None:
        """`dsn` is that of the role meterstream_ingest; `known_sources` default to the manifest's."""
        self._dsn = dsn
        self._cluster_id = cluster_id
        self._policy = policy
        self._known_sources = frozenset(topics.source_names() if known_sources is None else known_sources)
        self._retired = frozenset(topics.retired_source_ids())
        self._connection: Connection | None = None
        self._owned: dict[Partition, fence.Owned] = {}
        self._clock_ahead = timedelta()
        self._taken: dict[Partition, Taken] = {}
        self._totals = {"ledger": 0, "duplicates": 0, "rejected": 0, "alerts": 0}
        self._refusals = Refusals()
        self.newest_append: datetime | None = None
        """The highest append time that this process has stored."""
        self.has_new_leaves = asyncio.Event()
        """Set when rows needed leaves that nobody had made ahead."""
        self.upkeep: Upkeep = Upkeep()
        """How the last round of upkeep went."""

    async def claim(self, begins: Mapping[Partition, int]) -> Mapping[Partition, int]:
        """See Sink. Raises StopConsuming for another cluster, StoreRefused, OSError, asyncpg's errors."""
        with self._refusals.watched("the claim of partitions"):
            claimed = await fence.claim(await self._session(), begins, self._cluster_id)
        self._owned.update(claimed)
        return {partition: owned.next_offset for partition, owned in claimed.items()}

    def take(self, partition: Partition, records: Sequence[ConsumerRecord[Any, Any]]) -> int:
        """See Sink. Raises RecordUnreadable."""
        taken = self._taken.get(partition)
        if taken is None:
            taken = self._taken[partition] = Taken(self._owned[partition].next_offset)
        rows = 0
        for record in records:
            try:
                item = (
                    decode_live(record.topic, record.key, record.value)
                    if record.topic in LIVE_TOPICS
                    else decode(record.topic, record.headers, record.value)
                )
            except RecordUnreadable as error:
                raise RecordUnreadable(f"{record.topic}/{record.partition} offset {record.offset}: {error}") from error
            if item is not None:
                taken.items.append(item)
                rows += weight(item)
        taken.next_offset = records[-1].offset + 1
        return max(rows, 1)  # where nothing is stored the position still moves

    async def flush(self) -> Mapping[Partition, int]:
        """See Sink. Raises StopConsuming (CoverageGap, TopicMadeAnew, UnknownSource, StoreRefused), Fenced, OSError,
        asyncpg's errors."""
        if not self._taken:
            return {}
        batch = judge(self._taken, self._owned, self._known_sources, self._retired)
        with self._refusals.watched(_records_of(batch.moves)):
            stored = await transaction.store(await self._session(), batch, self._policy)
        self._refusals.clear()
        if stored.has_new_leaves:
            self.has_new_leaves.set()
        for move in batch.moves:
            self._owned[move.partition] = fence.Owned(move.epoch, move.next_offset, move.covered)
        self._taken.clear()
        self._count(stored)
        if batch.rows:
            newest = max(row.appended_at for _, _, row in batch.rows)
            self.newest_append = newest if self.newest_append is None else max(self.newest_append, newest)
            self._clock_ahead = newest - datetime.now(UTC)
        return {move.partition: move.next_offset for move in batch.moves}

    def forget(self, partitions: Iterable[Partition]) -> None:
        """See Sink."""
        for partition in partitions:
            self._owned.pop(partition, None)
            self._taken.pop(partition, None)

    async def reset(self) -> None:
        """See Sink. An error of the old connection is of no interest: it is dropped because of one."""
        self._owned.clear()
        self._taken.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Ends the session in good order."""
        if self._connection is not None:
            await self._connection.close(timeout=CLOSE_TIMEOUT_S)

    def detail(self) -> dict[str, Any]:
        """See Sink: rows stored by this process, partitions owned, leaves of the ledger."""
        return {
            Metric.SINK_PARTITIONS: len(self._owned),
            Metric.SINK_ROWS_TOTAL: dict(self._totals),
            Metric.SINK_FRESHNESS_SECONDS: None if self.newest_append is None else self.newest_append.timestamp(),
            Metric.SINK_LEDGER_LEAVES: self.upkeep.ledger_leaves,
            Metric.SINK_LEAVES_AHEAD: self.upkeep.leaves_ahead,
        }

    def warning(self) -> str | None:
        """See Sink: the broker's clock, the last upkeep."""
        if self._clock_ahead > CLOCK_AHEAD_MAX:
            return f"the broker's clock is {self._clock_ahead} ahead of this machine's: one of the two is wrong"
        return self.upkeep.warning

    def _count(self, stored: transaction.Stored) -> None:
        self._totals["ledger"] += stored.ledger
        self._totals["duplicates"] += stored.duplicates
        self._totals["rejected"] += stored.rejected
        self._totals["alerts"] += stored.alerts

    async def _session(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(self._dsn)
            await rollups.open_session(self._connection)
        return self._connection


async def run(
    settings: Settings,
    *,
    client_options: dict[str, Any],
    health: Health,
    stop: asyncio.Event,
    membership: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Stores what arrives until `stop` is set, then what has been read, and returns.

    `client_options` are aiokafka's connection options, `membership` how its consumer is in its group. Raises
    StopConsuming and ContractError when going on could lose or double usage, UsageError (no database; topics not as
    in the manifest), aiokafka's errors while it starts; while Postgres is away it waits.
    """
    dsn = settings.postgres_ingest_dsn.get_secret_value()
    if not dsn:
        raise UsageError("METERSTREAM_POSTGRES_INGEST_DSN is empty: say which database to store in")
    health.write("starting")
    gc.set_threshold(COLLECT_EVERY, *gc.get_threshold()[1:])
    cluster_id = await _checked_cluster(client_options)
    sink = PostgresSink(dsn, cluster_id=cluster_id, policy=settings.partition_policy)
    consumer = AIOKafkaConsumer(
        **client_options,
        **membership,
        group_id=GROUP,
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4_194_304,
        fetch_min_bytes=FETCH_BYTES_MIN,
        fetch_max_wait_ms=FETCH_WAIT_MS,
        session_timeout_ms=20_000,
        max_poll_interval_ms=120_000,
        metadata_max_age_ms=METADATA_AGE_MS,
    )
    limits = Limits(settings.sink_batch_rows_max, settings.sink_batch_age_ms / 1000, settings.drain_timeout_s)
    await consumer.start()
    upkeep = asyncio.create_task(_keep_up(dsn, settings, sink))
    try:
        await ConsumeLoop(consumer, sink, limits, health).run(TOPICS, stop)
    finally:
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)
        await stopped(consumer)
        await sink.close()
    health.write("stopped")


async def _checked_cluster(client_options: dict[str, Any]) -> str:
    """The cluster's id. Raises UsageError when our topics are not as the manifest says."""
    admin = AIOKafkaAdminClient(**client_options)
    try:
        await admin.start()
        cluster_id = (await admin.describe_cluster())["cluster_id"]
        found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(list(TOPICS))}
    finally:
        await admin.close()
    topics.check_partitions({name: found[name] or None for name in TOPICS})
    return str(cluster_id)


async def _keep_up(dsn: str, settings: Settings, sink: PostgresSink) -> None:
    """Makes leaves ahead of time and drops expired claims, on a session of its own, for ever.

    A failure delays nothing: a leaf that is missing is made when a row needs it. `sink.upkeep` says so.
    """
    while True:
        sink.has_new_leaves.clear()
        try:
            sink.upkeep = await keep_up_once(dsn, settings, sink.newest_append)
            pause_s = UPKEEP_INTERVAL_S
        except Exception as error:  # whatever it was: the next round has a new session
            reason = f"upkeep of the partitions fails, and will try again: {type(error).__name__}: {error}"
            sink.upkeep = replace(sink.upkeep, warning=reason)
            pause_s = UPKEEP_RETRY_S
        if sink.upkeep.warning:
            log.warning("%s", sink.upkeep.warning)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await sink.has_new_leaves.wait()


async def keep_up_once(dsn: str, settings: Settings, newest_append: datetime | None) -> Upkeep:
    """One round of upkeep as the role of `dsn`. May block; raises asyncpg's errors, OSError."""
    connection = await connect(dsn)
    try:
        now = datetime.now(UTC)
        needs = partitions.standing_needs(now, settings.partition_policy, settings.partitions_ahead)
        await partitions.ensure(connection, needs, policy=settings.partition_policy, today=now.date())
        if newest_append is not None:
            await partitions.drop_expired(connection, newest_append=newest_append)
        leaves, ahead = await partitions.ledger_leaves(connection, now)
    finally:
        await connection.close()
    if leaves <= partitions.LEDGER_LEAVES_MAX:
        return Upkeep(leaves, ahead)
    return Upkeep(
        leaves,
        ahead,
        f"the ledger has {leaves} leaves, more than {partitions.LEDGER_LEAVES_MAX}: docs/operate.md, Leaves",
    )


def _records_of(moves: Sequence[fence.Move]) -> str:
    """usage.priced/3 from offset 120 to 131, ..."""
    return "the records " + ", ".join(
        f"{move.partition[0]}/{move.partition[1]} from offset {move.expected_offset} to {move.next_offset - 1}"
        for move in moves
    )
