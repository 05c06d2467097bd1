"""The Postgres sink as a role: consumer, session and upkeep of the partitions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord

from meterstream.schema import topics
from meterstream.schema.errors import UsageError
from meterstream.schema.health import Health
from meterstream.schema.metrics import Metric
from meterstream.schema.settings import Settings
from meterstream.sinks.consume import ConsumeLoop, Limits, Partition
from meterstream.sinks.postgres import fence, partitions, rollups, transaction
from meterstream.sinks.postgres.batch import Taken, decode, judge, weight
from meterstream.sinks.postgres.connection import Connection, connect

log = logging.getLogger(__name__)

GROUP: Final = "meterstream-sink-postgres"
TOPICS: Final = (topics.PRICED, topics.REJECTED)
UPKEEP_INTERVAL_S: Final = 3600.0
UPKEEP_RETRY_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 2.0


class PostgresSink:
    """A `meterstream.sinks.consume.Sink`: each flush is one transaction of `transaction.store`."""

    def __init__(
        self, dsn: str, *, cluster_id: str, policy: partitions.Policy, known_sources: Collection[int] | None = None
    ) -> None:
        """`dsn` is that of the role meterstream_ingest; `known_sources` default to the manifest's."""
        self._dsn = dsn
        self._cluster_id = cluster_id
        self._policy = policy
        self._known_sources = frozenset(topics.source_ids().values() if known_sources is None else known_sources)
        self._connection: Connection | None = None
        self._owned: dict[Partition, fence.Owned] = {}
        self._taken: dict[Partition, Taken] = {}
        self._totals = {"ledger": 0, "duplicates": 0, "rejected": 0}
        self.newest_append: datetime | None = None
        """The highest append time that this process has stored."""

    async def claim(self, begins: Mapping[Partition, int]) -> Mapping[Partition, int]:
        """See Sink. Raises StopConsuming for another cluster, OSError, asyncpg's errors."""
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
            item = decode(record.topic, record.headers, record.value)
            taken.items.append(item)
            rows += weight(item)
        taken.next_offset = records[-1].offset + 1
        return rows

    async def flush(self) -> Mapping[Partition, int]:
        """See Sink. Raises CoverageGap, TopicMadeAnew, UnknownSource, Fenced, OSError, asyncpg's errors."""
        if not self._taken:
            return {}
        batch = judge(self._taken, self._owned, self._known_sources)
        stored = await transaction.store(await self._session(), batch, self._policy)
        for move in batch.moves:
            self._owned[move.partition] = fence.Owned(move.epoch, move.next_offset, move.covered)
        self._taken.clear()
        self._count(stored)
        if batch.rows:
            newest = max(row.appended_at for _, _, row in batch.rows)
            self.newest_append = newest if self.newest_append is None else max(self.newest_append, newest)
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
        """See Sink: rows stored by this process, partitions owned."""
        return {Metric.SINK_PARTITIONS: len(self._owned), Metric.SINK_ROWS_TOTAL: dict(self._totals)}

    def _count(self, stored: transaction.Stored) -> None:
        self._totals["ledger"] += stored.ledger
        self._totals["duplicates"] += stored.duplicates
        self._totals["rejected"] += stored.rejected

    async def _session(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(self._dsn)
            await rollups.open_session(self._connection)
        return self._connection


async def run(settings: Settings, *, client_options: dict[str, Any], health: Health, stop: asyncio.Event) -> None:
    """Stores what arrives until `stop` is set, then what has been read, and returns.

    `client_options` are aiokafka's connection options. Raises StopConsuming and ContractError when going on
    could lose or double usage, UsageError, aiokafka's errors while it starts; while Postgres is away it waits.
    """
    dsn = settings.postgres_ingest_dsn.get_secret_value()
    if not dsn:
        raise UsageError("METERSTREAM_POSTGRES_INGEST_DSN is empty: say which database to store in")
    health.write("starting")
    sink = PostgresSink(dsn, cluster_id=await _cluster_id(client_options), policy=settings.partition_policy)
    consumer = AIOKafkaConsumer(
        **client_options,
        group_id=GROUP,
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4_194_304,
        session_timeout_ms=20_000,
        max_poll_interval_ms=120_000,
    )
    limits = Limits(settings.sink_batch_rows_max, settings.sink_batch_age_ms / 1000, settings.drain_timeout_s)
    await consumer.start()
    upkeep = asyncio.create_task(_keep_up(dsn, settings, sink))
    try:
        await ConsumeLoop(consumer, sink, limits, health).run(TOPICS, stop)
    finally:
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)
        await consumer.stop()
        await sink.close()
    health.write("stopped")


async def _cluster_id(client_options: dict[str, Any]) -> str:
    admin = AIOKafkaAdminClient(**client_options)
    await admin.start()
    try:
        cluster_id = (await admin.describe_cluster())["cluster_id"]
    finally:
        await admin.close()
    return str(cluster_id)


async def _keep_up(dsn: str, settings: Settings, sink: PostgresSink) -> None:
    """Makes leaves ahead of time and drops expired claims, on a session of its own, for ever.

    A failure delays nothing: a leaf that is missing is made when a row needs it.
    """
    while True:
        try:
            await keep_up_once(dsn, settings, sink.newest_append)
            await asyncio.sleep(UPKEEP_INTERVAL_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            log.warning("upkeep of the partitions will try again: %s: %s", type(error).__name__, error)
            await asyncio.sleep(UPKEEP_RETRY_S)


async def keep_up_once(dsn: str, settings: Settings, newest_append: datetime | None) -> None:
    """One round of upkeep as the role of `dsn`. May block; raises asyncpg's errors, OSError."""
    connection = await connect(dsn)
    try:
        now = datetime.now(UTC)
        needs = partitions.standing_needs(now, settings.partition_policy, settings.partitions_ahead)
        await partitions.ensure(connection, needs, policy=settings.partition_policy, today=now.date())
        if newest_append is not None:
            await partitions.drop_expired(connection, newest_append=newest_append)
        leaves = await partitions.ledger_leaves(connection)
        if leaves > partitions.LEDGER_LEAVES_MAX:
            log.warning("the ledger has %d leaves, more than %d: detach old ones", leaves, partitions.LEDGER_LEAVES_MAX)
    finally:
        await connection.close()
