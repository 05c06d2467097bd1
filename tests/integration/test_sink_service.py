"""The Postgres sink as a role, on a real broker and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from pydantic import SecretStr

from meterstream.deploy import database
from meterstream.deploy import topics as broker_topics
from meterstream.deploy.stack import Addresses
from meterstream.schema.coverage import milliseconds
from meterstream.schema.errors import CoverageGap, OffsetOutOfRange, RecordUnreadable, StoreRefused
from meterstream.schema.ids import claim_key, id_time_ms, uuid7
from meterstream.schema.pack import RowTuple, encode_pack
from meterstream.schema.position import SourcePartition
from meterstream.schema.settings import Settings
from meterstream.schema.topics import PRICED
from meterstream.sinks.postgres import fence, partitions, service
from tests import topic_log
from tests.background import beside

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.stack

DEADLINE_S = 100.0
PASSWORD = "for-tests"
PARTITIONS = 4


@dataclass
class Told:
    """A health file in memory."""

    reports: list[tuple[str, str | None, int | None]] = field(default_factory=list)

    def write(self, state: str, reason: str | None = None, lag_records: int | None = None, **detail: Any) -> None:
        self.reports.append((state, reason, lag_records))


@dataclass
class Pipeline:
    """A prepared database, and the priced topic as a rater would fill it."""

    settings: Settings
    admin: Connection
    producer: AIOKafkaProducer
    next_position: dict[int, int]

    @property
    def client_options(self) -> dict[str, Any]:
        return {"bootstrap_servers": self.settings.kafka_bootstrap}

    async def send(self, packs: int, rows: int = 10) -> None:
        """`packs` packs to each partition; a partition of the topic is fed from one source partition."""
        now = datetime.now(UTC)
        for _ in range(packs):
            for partition in range(PARTITIONS):
                lo = self.next_position[partition]
                value = encode_pack(
                    SourcePartition(1, partition),
                    lo,
                    lo + rows - 1,
                    [priced(lo + n, partition, now) for n in range(rows)],
                    milliseconds(now),
                )
                self.next_position[partition] = lo + rows
                await self.producer.send(PRICED, value, partition=partition)
        await self.producer.flush()

    @property
    def sent(self) -> int:
        return sum(self.next_position.values())

    async def stored(self) -> int:
        count: int = await self.admin.fetchval("SELECT count(*) FROM meter.ledger")
        return count

    async def all_stored(self) -> bool:
        return await self.stored() == self.sent

    async def assert_exact(self) -> None:
        assert await self.stored() == self.sent
        assert (
            await self.admin.fetchval("SELECT count(DISTINCT (source_partition, position)) FROM meter.ledger")
            == self.sent
        )
        for rollup in ("rollup_hourly", "rollup_daily"):
            assert await self.admin.fetchval(f"SELECT sum(events) FROM meter.{rollup}") == self.sent

    @asynccontextmanager
    async def sink(self) -> AsyncIterator[tuple[Told, asyncio.Task[None]]]:
        """Runs the role; at the end it drains, and what it raised is raised."""
        told = Told()
        async with beside(
            lambda stop: service.run(self.settings, client_options=self.client_options, health=told, stop=stop)
        ) as role:
            yield told, role

    async def kill_sessions(self) -> None:
        await self.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = 'meterstream_ingest'"
        )


def priced(position: int, partition: int, now: datetime) -> RowTuple:
    tenant, event_id = f"tenant-{partition}", uuid7(now)
    claim = claim_key(tenant, "svc", event_id, id_time_ms(event_id))
    return (
        *(position, claim, 1, tenant, event_id, "svc", now, now, "openai", "gpt", "chat", "", "", "", "ok", 200, 5),
        *("priced", 1, "USD", 10**12, 1, 2, 0, 0, 0),
    )


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.05)
    assert await condition(), what


@pytest.fixture
async def pipeline(stack: Addresses, database_name: str) -> AsyncIterator[Pipeline]:
    """A database of its own; what earlier tests left in the topic counts as read."""
    settings = Settings(
        kafka_bootstrap=stack.kafka_bootstrap,
        postgres_admin_dsn=SecretStr(stack.dsn(database=database_name)),
        postgres_ingest_dsn=SecretStr(stack.dsn(database.INGEST_ROLE, PASSWORD, database_name)),
        sink_batch_age_ms=50,
        drain_timeout_s=20,
    )
    await broker_topics.apply(settings)
    await database.prepare(settings, passwords={database.INGEST_ROLE: PASSWORD})
    admin = await asyncpg.connect(stack.dsn(database=database_name))
    await _begin_at_the_end(settings, admin)
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap) as producer:
        yield Pipeline(settings, admin, producer, dict.fromkeys(range(PARTITIONS), 0))
    await admin.close()


async def _begin_at_the_end(settings: Settings, admin: Connection) -> None:
    cluster_id = await service._checked_cluster({"bootstrap_servers": settings.kafka_bootstrap})
    ends = await topic_log.ends({"bootstrap_servers": settings.kafka_bootstrap}, PRICED)
    for partition, end in ends.items():
        await admin.execute(
            "INSERT INTO meter.sink_positions VALUES ($1, $2, $3, 1, '{}', $4, now())",
            partition.topic,
            partition.partition,
            end,
            cluster_id,
        )


async def test_it_stores_what_is_sent_and_goes_on_after_a_restart(pipeline: Pipeline) -> None:
    await pipeline.send(5)
    async with pipeline.sink() as (told, _):
        await eventually(pipeline.all_stored, "first part")
        await pipeline.send(5)
        await eventually(pipeline.all_stored, "second part")

        async def lag_is_shown() -> bool:
            return ("running", None, 0) in told.reports

        await eventually(lag_is_shown, "lag 0")
    assert [told.reports[0][0], told.reports[-2][0], told.reports[-1][0]] == ["starting", "draining", "stopped"]
    await pipeline.send(5)
    async with pipeline.sink():
        await eventually(pipeline.all_stored, "third part")
    await pipeline.assert_exact()


async def test_lost_sessions_lose_and_double_nothing(pipeline: Pipeline) -> None:
    async with pipeline.sink() as (told, _):
        await pipeline.send(1)
        await eventually(pipeline.all_stored, "before")

        async def has_lost_sessions() -> bool:
            await pipeline.send(5, rows=50)
            await pipeline.kill_sessions()
            return sum(state == "degraded" for state, _, _ in told.reports) >= 3

        await eventually(has_lost_sessions, "failures")
        await pipeline.send(5)
        await eventually(pipeline.all_stored, "all")
    await pipeline.assert_exact()


async def test_while_postgres_is_away_it_waits_and_says_so(pipeline: Pipeline) -> None:
    async with pipeline.sink() as (told, role):
        await pipeline.send(2)
        await eventually(pipeline.all_stored, "before")
        await pipeline.admin.execute("ALTER ROLE meterstream_ingest NOLOGIN")
        await pipeline.kill_sessions()
        await pipeline.send(20, rows=50)

        async def is_refused() -> bool:
            return sum(state == "degraded" and "not permitted" in str(why) for state, why, _ in told.reports) >= 3

        await eventually(is_refused, "reports")
        assert not role.done()
        await pipeline.admin.execute("ALTER ROLE meterstream_ingest LOGIN")
        await eventually(pipeline.all_stored, "after")

        async def runs() -> bool:
            return told.reports[-1] == ("running", None, 0)

        await eventually(runs, "healthy again")
    await pipeline.assert_exact()


async def test_two_processes_share_and_take_over(pipeline: Pipeline) -> None:
    await pipeline.send(5)
    async with pipeline.sink():
        await eventually(pipeline.all_stored, "one")
        async with pipeline.sink():
            for _ in range(10):
                await pipeline.send(3)
                await asyncio.sleep(0.1)  # spread over the rebalance
            await eventually(pipeline.all_stored, "two")
        await pipeline.send(5)
        await eventually(pipeline.all_stored, "one again")
    await pipeline.assert_exact()


@pytest.mark.parametrize("move", [1000, -10_000_000])
async def test_a_stored_offset_outside_the_topic_stops(pipeline: Pipeline, move: int) -> None:
    await pipeline.admin.execute(
        "UPDATE meter.sink_positions SET next_offset = next_offset + $1 WHERE partition = 1", move
    )
    with pytest.raises(OffsetOutOfRange, match=r"usage\.priced/1: stored up to offset"):
        async with pipeline.sink() as (_, role):
            await asyncio.wait([role], timeout=DEADLINE_S)


async def test_what_the_owner_before_stores_until_the_claim_is_no_loss(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives on for as long as the new one's way to Postgres takes, and stores what is sent meanwhile."""
    before = service.PostgresSink(
        pipeline.settings.postgres_ingest_dsn.get_secret_value(),
        cluster_id=await service._checked_cluster(pipeline.client_options),
        policy=pipeline.settings.partition_policy,
    )
    begins = await topic_log.ends(pipeline.client_options, PRICED)
    await before.claim(begins)
    claim = fence.claim

    async def claim_late(*args: Any) -> Any:
        if not pipeline.sent:
            await pipeline.send(3)
            for record in await topic_log.read(pipeline.client_options, PRICED):
                partition = TopicPartition(record.topic, record.partition)
                if record.offset >= begins[partition]:
                    before.take(partition, [record])
            await before.flush()
        return await claim(*args)

    monkeypatch.setattr(fence, "claim", claim_late)
    async with pipeline.sink() as (told, role):

        async def is_read() -> bool:
            return role.done() or ("running", None, 0) in told.reports

        await eventually(is_read, "taken over")
    await before.close()
    await pipeline.assert_exact()


async def test_a_gap_stops(pipeline: Pipeline) -> None:
    await pipeline.send(1)
    pipeline.next_position[2] += 5
    await pipeline.send(1)
    with pytest.raises(CoverageGap, match="source 1 partition 2"):
        async with pipeline.sink() as (_, role):
            await asyncio.wait([role], timeout=DEADLINE_S)


async def test_a_record_of_another_format_stops(pipeline: Pipeline) -> None:
    await pipeline.producer.send_and_wait(PRICED, b"\x95\x63", partition=0)
    with pytest.raises(RecordUnreadable):
        async with pipeline.sink() as (_, role):
            await asyncio.wait([role], timeout=DEADLINE_S)


async def test_what_postgres_will_always_refuse_stops(pipeline: Pipeline) -> None:
    await pipeline.admin.execute("ALTER TABLE meter.ledger ADD CONSTRAINT no_gpt CHECK (model <> 'gpt')")
    await pipeline.send(1)
    with pytest.raises(StoreRefused, match=r"usage\.priced/\d from offset .*no_gpt of ledger"):
        async with pipeline.sink() as (_, role):
            await asyncio.wait([role], timeout=DEADLINE_S)
    await pipeline.admin.execute("ALTER TABLE meter.ledger DROP CONSTRAINT no_gpt")
    async with pipeline.sink():
        await eventually(pipeline.all_stored, "after the repair")
    await pipeline.assert_exact()


async def test_too_many_leaves_are_seen_in_its_health(pipeline: Pipeline) -> None:
    for month in range(partitions.LEDGER_LEAVES_MAX):
        await pipeline.admin.execute(
            "SELECT meter.ensure_partition('ledger', '2010-01-01'::timestamptz + make_interval(months => $1))", month
        )
    async with pipeline.sink() as (told, _):

        async def is_degraded() -> bool:
            return any(state == "degraded" and "leaves" in str(why) for state, why, _ in told.reports)

        await eventually(is_degraded, "the leaves are counted at the start")
        await pipeline.send(1)
        await eventually(pipeline.all_stored, "it goes on")
