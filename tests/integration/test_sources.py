"""Source topics that lose records, grow, or are deleted and made anew: rater, sink and verify on real servers."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest
from click.testing import CliRunner
from pydantic import SecretStr

from meterstream.deploy import database, topics
from meterstream.deploy.cli.topics import topics as command
from meterstream.deploy.connections import resolve
from meterstream.deploy.kafka import client_options
from meterstream.deploy.roles import ROLES
from meterstream.deploy.running.health import HealthFile
from meterstream.deploy.stack import Addresses, password
from meterstream.deploy.verify import run as verify
from meterstream.processors import raw_fetch
from meterstream.processors.aggregation.reread import LogReader
from meterstream.processors.rating import service as rater
from meterstream.schema import topics as manifest_of
from meterstream.schema.errors import OffsetOutOfRange, RecordUnreadable, TopicMadeAnew, Unreachable, UsageError
from meterstream.schema.health import State
from meterstream.schema.ids import uuid7
from meterstream.schema.position import SourcePartition, last_before
from meterstream.schema.settings import Settings
from meterstream.schema.topics import BACKFILL, RAW, REJECTED
from meterstream.sinks.postgres import service as sink
from meterstream.sinks.postgres import verify as snapshots
from tests import raw_batch
from tests.raw_batch import Raw

pytestmark = pytest.mark.stack
DEADLINE_S = 60.0
POLL_S = 0.05


class Told:
    """A health file in memory."""

    def __init__(self) -> None:
        self.last: tuple[str, str | None, int | None] = ("", None, None)

    def write(self, state: State, reason: str | None = None, lag_records: int | None = None, **detail: Any) -> None:
        self.last = (state, reason, lag_records)


class System:
    """Servers with topics and tables; the roles run in this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.options = client_options(settings)
        self.values: list[bytes] = []
        """Every event that was published to the raw topic, oldest first."""

    @asynccontextmanager
    async def roles(self, *mains: Any, **changes: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
        """Runs them; at the end they drain, and what one raised is raised."""
        stop = asyncio.Event()
        settings = self.settings.model_copy(update=changes)
        tasks = [
            asyncio.create_task(main.run(settings, client_options=self.options, health=Told(), stop=stop))
            for main in mains
        ]
        async with drained(tasks, stop):
            yield tasks

    @asynccontextmanager
    async def roles_of_a_supervisor(self, *names: str) -> AsyncIterator[list[asyncio.Task[None]]]:
        """As `up --roles` runs them: each with an instance name, the same in every life."""
        stop = asyncio.Event()
        tasks = [
            asyncio.ensure_future(
                ROLES[name].run(
                    self.settings.model_copy(update={"instance": f"one-{name}"}),
                    HealthFile(self.settings.home, name),
                    stop,
                )
            )
            for name in names
        ]
        async with drained(tasks, stop):
            yield tasks

    async def publish(self, events: int, partitions: Sequence[int], topic: str = RAW) -> None:
        values = [event(number) for number in range(events)]
        async with AIOKafkaProducer(**self.options, acks="all") as producer:
            sends = [
                await producer.send(topic, value, partition=partitions[number % len(partitions)])
                for number, value in enumerate(values)
            ]
            await asyncio.gather(*sends)
        self.values += values

    async def ends(self, partitions: int, topic: str = RAW) -> dict[SourcePartition, int]:
        wanted = [TopicPartition(topic, number) for number in range(partitions)]
        async with AIOKafkaConsumer(**self.options) as consumer:
            ends = await consumer.end_offsets(wanted)
        source_id = manifest_of.source_ids()[topic]
        return {SourcePartition(source_id, partition): ends[TopicPartition(topic, partition)] for _, partition in ends}

    async def stored(self, partitions: int, tasks: Sequence[asyncio.Task[None]], topic: str = RAW) -> None:
        """Waits until all that was published is covered in Postgres; raises what a role raises meanwhile."""
        ends = await self.ends(partitions, topic)
        await eventually(lambda: self.has_covered(ends), tasks)

    async def has_covered(self, ends: dict[SourcePartition, int]) -> bool:
        async with self.snapshot() as connection:
            covered = await snapshots.covered(connection)
        return all(covered.get(source, -1) >= last_before(end) for source, end in ends.items())

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.settings.postgres_reader_dsn.get_secret_value())
        try:
            async with snapshots.snapshot(connection):
                yield connection
        finally:
            await connection.close()

    async def count(self, table: str) -> int:
        async with self.snapshot() as connection:
            rows: int = await connection.fetchval(f"SELECT count(*) FROM meter.{table}")
        return rows

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        client = AIOKafkaAdminClient(**self.options)
        await client.start()
        try:
            yield client
        finally:
            await client.close()

    async def delete_topic(self, topic: str) -> None:
        async with self.admin() as admin:
            await admin.delete_topics([topic])
        await eventually(lambda: self._is_gone(topic), ())

    async def _is_gone(self, topic: str) -> bool:
        return topic not in await topics.describe(self.settings)

    async def make_topic(self, topic: str, partitions: int) -> None:
        """As somebody with Kafka's own tools would, past our refusal."""
        config = {key: str(value) for key, value in manifest_of.manifest()[topic].config.items()}
        async with self.admin() as admin:
            await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=config)])
            await topics._until_usable(admin, [manifest_of.manifest()[topic]])

    async def delete_records(self, before: dict[SourcePartition, int], topic: str = RAW) -> None:
        async with self.admin() as admin:
            await admin.delete_records(
                {TopicPartition(topic, s.partition): RecordsToDelete(before_offset=end) for s, end in before.items()}
            )

    async def all_answer(self) -> None:
        """Waits until each partition's leader takes requests: `raw_batch` sends once, whatever the answer."""
        counts = await topics.partitions(self.settings, manifest_of.manifest())
        async with AIOKafkaConsumer(**self.options) as consumer:
            await consumer.end_offsets(
                [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
            )

    async def delete_all(self) -> None:
        """Every topic, and with them what groups have committed."""
        there = list(await topics.describe(self.settings))
        async with self.admin() as admin:
            await admin.delete_topics(there)
            has_group = rater.GROUP in [name for name, _ in await admin.list_consumer_groups()]
        await eventually(self._is_empty, ())
        if has_group:
            await self.forget_commits()

    async def _is_empty(self) -> bool:
        return not await topics.describe(self.settings)

    async def forget_commits(self) -> None:
        """The group's offsets, as the broker does when nobody has used them for seven days."""
        async with self.admin() as admin:
            coordinator = await admin.find_coordinator(rater.GROUP)
            response = await admin._send_request(DeleteGroupsRequest([rater.GROUP]), coordinator)
        assert [code for _, code in response.results] == [0]

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """As an operator does with Kafka's own tools while no rater runs."""
        async with AIOKafkaConsumer(**self.options, group_id=rater.GROUP, enable_auto_commit=False) as consumer:
            consumer.assign(list(offsets))
            await consumer.commit(offsets)


@asynccontextmanager
async def drained(tasks: Sequence[asyncio.Task[None]], stop: asyncio.Event) -> AsyncIterator[None]:
    """At the end they are told to stop, and what one raised is raised."""
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait(tasks, timeout=DEADLINE_S)
    for task in tasks:
        assert task.done(), "a role does not end"
        task.result()


def event(number: int) -> bytes:
    now = datetime.now(UTC)
    data = {"provider": "p", "model": "m", "operation": "chat", "usage": {"output_tokens": number}}
    envelope = {"specversion": "1.0", "type": "meterstream.usage.v1", "id": uuid7(now), "source": "test"}
    return json.dumps(envelope | {"time": now.isoformat(), "tenant": f"tenant-{number % 50}", "data": data}).encode()


async def eventually(condition: Callable[[], Awaitable[bool]], tasks: Sequence[asyncio.Task[None]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            for task in tasks:
                if task.done():
                    task.result()
                    raise AssertionError("a role has ended")
            await asyncio.sleep(POLL_S)


async def ends_with(error: type[Exception], match: str, role: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(2 * DEADLINE_S):
        with pytest.raises(error, match=match):
            await role


@pytest.fixture(scope="module")
async def servers(home: Path, stack: Addresses) -> Settings:
    """Topics, and a prepared database that nobody is connected to."""
    settings = _on_database(home, stack, "meterstream")
    await topics.apply(settings)
    await database.prepare(settings, passwords={login: password(home, login) for login in LOGINS})
    return settings


@pytest.fixture
async def system(home: Path, stack: Addresses, servers: Settings) -> AsyncIterator[System]:
    """As after the first `up`, for each test anew: topics without a record, an empty database, no group."""
    name = f"sources_{secrets.token_hex(4)}"
    await _as_root(stack, f"CREATE DATABASE {name} TEMPLATE meterstream")
    await _as_root(stack, f"GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {', '.join(LOGINS)}")
    system = System(_on_database(home, stack, name))
    await topics.apply(system.settings)
    await system.all_answer()
    yield system
    await system.delete_all()
    await _as_root(stack, f"DROP DATABASE {name} WITH (FORCE)")


async def _as_root(addresses: Addresses, statement: str) -> None:
    connection = await asyncpg.connect(addresses.dsn(database="postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


LOGINS = (database.INGEST_ROLE, database.READER_ROLE)


def _on_database(home: Path, addresses: Addresses, name: str) -> Settings:
    admin, ingest, reader = (
        SecretStr(addresses.dsn(user, user and password(home, user), name)) for user in (None, *LOGINS)
    )
    return resolve(
        Settings(
            home=home,
            postgres_admin_dsn=admin,
            postgres_ingest_dsn=ingest,
            postgres_reader_dsn=reader,
            sink_batch_age_ms=20,
            rater_commit_interval_ms=50,
        )
    )


async def test_partitions_that_are_added_under_load_are_read_and_counted(
    system: System, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with system.roles(rater, sink) as tasks:
        await system.publish(200, range(4))
        load = asyncio.create_task(system.publish(2_000, range(4)))
        async with system.admin() as admin:
            await admin.create_partitions({RAW: NewPartitions(6)})
        await load
        await eventually(lambda: _has(system, RAW, 6), tasks)
        await system.publish(600, range(6))
        await system.stored(6, tasks)
    assert await system.count("ledger") == len(system.values)
    result = await verify.verify(system.settings, is_raw=True)
    assert result.is_good
    assert result.raw is not None
    raw = {partition.name: partition.positions for partition in result.raw if partition.name.startswith(RAW)}
    assert raw.keys() == {f"{RAW}/{number}" for number in range(6)}
    assert raw[f"{RAW}/5"] == 100
    assert sum(raw.values()) == len(system.values)

    assert await topics.apply(system.settings) == []
    monkeypatch.setenv("METERSTREAM_HOME", str(home))
    told = await asyncio.to_thread(CliRunner().invoke, command, ["verify"])
    assert told.exit_code == 0
    assert "usage.raw: has 6 partitions, 4 in the manifest" in told.output


async def test_partitions_that_nobody_has_read_are_counted_as_being_on_their_way(system: System) -> None:
    async with system.roles(rater, sink) as tasks:
        await system.publish(8, range(4))
        await system.stored(4, tasks)
    async with system.admin() as admin:
        await admin.create_partitions({RAW: NewPartitions(7)})
    await eventually(lambda: _has(system, RAW, 7), ())
    result = await verify.verify(system.settings, is_raw=True)
    assert result.is_good
    assert result.raw is not None
    assert [p.last_offset for p in result.raw if p.name == f"{RAW}/6"] == [-1]
    await system.publish(10, [6])
    async with system.roles(rater, sink) as tasks:  # the group's first life that finds it
        await system.stored(7, tasks)
    assert await system.count("ledger") == len(system.values)


async def test_partitions_that_are_added_after_a_restart_are_read_where_roles_have_names(system: System) -> None:
    async with system.roles_of_a_supervisor("rater", "sink-postgres") as tasks:
        await system.publish(12, range(4))
        await system.stored(4, tasks)
    async with system.roles_of_a_supervisor("rater", "sink-postgres") as tasks:
        await system.publish(12, range(4))
        await system.stored(4, tasks)
        async with system.admin() as admin:
            await admin.create_partitions({RAW: NewPartitions(8)})
        await eventually(lambda: _has(system, RAW, 8), tasks)
        await system.publish(20, [7])
        await system.stored(8, tasks)
    assert await system.count("ledger") == len(system.values)


async def _has(system: System, topic: str, partitions: int) -> bool:
    return (await topics.partitions(system.settings, [topic]))[topic] == partitions


async def test_what_the_client_cannot_read_is_rejected_once_and_its_neighbours_are_charged(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of headers that are not UTF-8, a batch that only the broker can decompress, a bomb, offsets that lie."""
    partition = TopicPartition(RAW, 0)
    good = [event(number) for number in range(1_000, 1_030)]
    bad = [event(number) for number in range(2_000, 2_008)]
    wrong = ((b"caf\xe9", b"x"), (b"content-type", b"application/cloudevents+json"))
    places: list[int] = []

    async def send(values: list[Raw], bad_places: Sequence[int], codec: str, junk: bytes = b"") -> None:
        first = await raw_batch.send(system.options, partition, raw_batch.batch(values, codec, junk=junk))
        places.extend(first + place for place in bad_places)

    await send([Raw(bad[0], wrong)], [0], "none")
    await system.publish(60, range(4))  # in the same polls: what is lost with an error must come again
    ours = iter(good)
    for codec, (one, other) in {"zstd": bad[1:3], "gzip": bad[3:5], "none": bad[5:7]}.items():
        await send(
            [Raw(next(ours)), Raw(one, wrong), Raw(other, wrong), Raw(next(ours)), Raw(next(ours))], [1, 2], codec
        )
    lies = [Raw(next(ours), delta=delta) for delta in (0, 1_000, -3, 0, 2**31 - 1)]
    await send(lies, [], "none")
    await send([Raw(bad[7]), Raw(bad[0])], [0, 1], "gzip", b"the broker's library ignores what follows")
    bomb = await raw_batch.send(system.options, partition, raw_batch.zstd_bomb(1_500 << 20))
    places.append(bomb)
    for data in raw_batch.header_bomb(500_000, "none"), raw_batch.header_bomb(15_000_000):
        places.append(await raw_batch.send(system.options, partition, data))
    await system.publish(16, range(4))
    system.values += good[:14]
    memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wanted = json.loads(good[13])["id"]
    found = await verify.where(system.settings, wanted, is_raw=True)
    assert len(found.published) == 1

    for records_max in (2, 2_000):  # in pieces, then all of it once more, in a life whose every poll takes too long
        async with system.roles(rater, sink, rater_poll_records_max=records_max) as tasks:
            await system.stored(4, tasks)
        await system.commit({TopicPartition(RAW, number): 0 for number in range(4)})
        monkeypatch.setattr(raw_fetch, "POLL_S_MAX", -1.0)
    monkeypatch.undo()
    assert await system.count("ledger") == len(system.values)
    assert await system.count("duplicates") == 0
    async with system.snapshot() as connection:
        rejected = await connection.fetch(
            "SELECT reason, position >> 20 AS place, value, value_length FROM meter.rejected ORDER BY place"
        )
    assert [row["place"] for row in rejected] == places
    assert [row["value"] for row in rejected[:7]] == bad[:7]
    assert [row["reason"] for row in rejected] == [
        *["header_name"] * 7,
        *["unreadable_batch"] * 3,
        *["too_many_headers"] * 2,
    ]
    assert [len(row["value"]) > 0 for row in rejected[7:10]] == [True, False, True], "a batch is kept once"
    result = await verify.verify(system.settings, is_raw=True)
    assert result.is_good, result
    (raw,) = [p for p in result.raw or () if p.name == f"{RAW}/0"]
    assert raw.positions == raw.last_offset + 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < memory_kib + (500 << 10), "1,500 MiB from 48 KiB"


async def test_only_what_a_transaction_commits_is_charged(system: System) -> None:
    values = [event(number) for number in range(3_000, 3_009)]
    partition = TopicPartition(RAW, 1)

    async def send(producer: AIOKafkaProducer, chosen: Sequence[bytes]) -> None:
        for value in chosen:
            await producer.send_and_wait(RAW, value, partition=1)

    async with AIOKafkaProducer(**system.options, transactional_id="publisher") as producer:
        async with producer.transaction():
            await send(producer, values[:3])
        await producer.begin_transaction()
        await send(producer, values[3:5])
        wrong = Raw(values[5], ((b"caf\xe9", b"x"),))
        await raw_batch.send(system.options, partition, raw_batch.batch([Raw(values[6]), wrong]))
        await producer.abort_transaction()
        system.values += [*values[:3], values[6]]
        async with system.roles(rater, sink) as tasks:
            await system.stored(4, tasks)  # the marker at the end of the partition too
            await producer.begin_transaction()
            await send(producer, values[7:8])
            await system.publish(40, range(4))
            open_end = (await system.ends(4))[SourcePartition(1, 1)]
            others = {source: end for source, end in (await system.ends(4)).items() if source.partition != 1}
            await eventually(lambda: system.has_covered(others), tasks)
            found = await verify.where(system.settings, json.loads(values[7])["id"], is_raw=True)
            assert not found.published, "nobody knows yet whether it will count"
            assert not await system.has_covered({SourcePartition(1, 1): open_end})
            await producer.commit_transaction()
            system.values += values[7:8]
            await system.stored(4, tasks)
    assert await system.count("ledger") == len(system.values)
    result = await verify.verify(system.settings, is_raw=True)
    assert result.is_good, result


async def test_the_committed_offset_is_gone_and_nothing_was_deleted(system: System) -> None:
    """As after seven idle days: from the beginning, and every repeat is recognised."""
    for events in 12, 10:
        async with system.roles(rater, sink) as tasks:
            await system.publish(events, range(4))
            await system.stored(4, tasks)
        await system.forget_commits()
    assert await system.count("ledger") == 22
    assert await system.count("duplicates") == 0


async def test_records_deleted_unread_stop_the_rater_until_the_loss_is_accepted(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    async with system.roles(rater, sink) as tasks:
        await system.publish(20, range(4))
        await system.stored(4, tasks)
    await system.publish(40, range(4))
    await system.delete_records(await system.ends(4))
    await system.forget_commits()
    text = r"usage\.raw/\d: the topic begins at offset \d+, and no offset of this group is kept.*--accept-loss"
    run = rater.run(system.settings, client_options=system.options, health=Told(), stop=asyncio.Event())
    await ends_with(OffsetOutOfRange, text, run)

    first_loss = await _named(system)
    assert len(first_loss.split(",")) == 4, "all of them at once"
    async with system.roles(rater, sink, rater_accept_loss=first_loss) as tasks:
        await system.stored(4, tasks)  # coverage of what is lost, before any new record
        await system.publish(40, range(4))
        await system.stored(4, tasks)
    assert "LOSS ACCEPTED: usage.raw/0 begins at offset" in caplog.text
    del system.values[-80:-40]
    assert await system.count("ledger") == len(system.values)
    result = await verify.verify(system.settings, is_raw=True)
    assert result.is_good
    assert result.raw is not None
    assert any(partition.before_log_start for partition in result.raw)

    # The same where the group's offset is kept, but the topic begins after it: another loss, which nobody has accepted.
    await system.publish(8, range(4))
    await system.delete_records(await system.ends(4))
    as_before = system.settings.model_copy(update={"rater_accept_loss": first_loss})
    run = rater.run(as_before, client_options=system.options, health=Told(), stop=asyncio.Event())
    await ends_with(OffsetOutOfRange, r"usage\.raw/\d: the topic begins at offset \d+, and this group has read", run)
    del system.values[-8:]
    async with system.roles(rater, sink, rater_accept_loss=await _named(system)) as tasks:
        await system.stored(4, tasks)
    async with system.roles(rater, sink) as tasks:
        await system.publish(4, range(4))
        await system.stored(4, tasks)
    assert await system.count("ledger") == len(system.values)


async def _named(system: System) -> str:
    """What a rater that stops says that a person may accept."""
    with pytest.raises(OffsetOutOfRange) as stopped:
        await rater.run(system.settings, client_options=system.options, health=Told(), stop=asyncio.Event())
    found = re.search(r"--accept-loss ([^`]+)`", str(stopped.value))
    assert found is not None, stopped.value
    return found[1]


async def test_a_topic_made_anew_while_it_is_read_stops_the_sink_and_goes_on_under_a_new_id(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ends_with(TopicMadeAnew, "source 2 partition", _read_while_it_is_made_anew(system))
    assert await system.count("ledger") < len(system.values)

    entry = manifest_of.manifest()[BACKFILL]
    changed = entry.model_copy(update={"source_id": 3, "generation": 2, "retired_source_ids": (2,)})
    monkeypatch.setattr(manifest_of, "manifest", lambda: {**_shipped, BACKFILL: changed})
    await system.commit({TopicPartition(BACKFILL, number): 0 for number in range(4)})
    async with system.roles(rater, sink) as tasks:
        await system.stored(4, tasks, BACKFILL)
    assert await system.count("ledger") == len(system.values)
    result = await verify.verify(system.settings, is_raw=True)
    assert result.is_good, result
    assert result.raw is not None
    assert sum(p.positions for p in result.raw if p.name.startswith(BACKFILL)) == 600


async def _read_while_it_is_made_anew(system: System) -> None:
    async with system.roles(rater, sink) as tasks:
        await system.publish(400, range(4), BACKFILL)
        await system.stored(4, tasks, BACKFILL)
        await system.delete_topic(BACKFILL)
        await system.make_topic(BACKFILL, 4)
        await system.publish(600, range(4), BACKFILL)
        await asyncio.wait(tasks[1:], timeout=DEADLINE_S)


async def test_a_source_topic_that_is_missing_is_not_made_anew(system: System) -> None:
    async with system.roles(rater, sink) as tasks:
        await system.publish(4, range(4), BACKFILL)
        await system.stored(4, tasks, BACKFILL)
    await system.delete_topic(BACKFILL)
    with pytest.raises(
        UsageError, match=r"usage\.backfill \(source_id 2\) is missing, but the database holds positions"
    ):
        await topics.apply(system.settings)
    assert BACKFILL not in await topics.describe(system.settings)
    with pytest.raises(UsageError, match=r"the broker has no topic usage\.backfill"):
        await verify.verify(system.settings, is_raw=True)
    run = rater.run(system.settings, client_options=system.options, health=Told(), stop=asyncio.Event())
    await ends_with(UsageError, r"usage\.backfill is missing", run)


_shipped = manifest_of.manifest()


async def test_without_a_broker_the_raw_comparison_says_so(system: System) -> None:
    away = system.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    with pytest.raises(Unreachable, match=r"no Kafka broker answers at 127\.0\.0\.1:9"):
        await verify.verify(away, is_raw=True)
    with pytest.raises(Unreachable, match=r"no Kafka broker answers at 127\.0\.0\.1:9"):
        await verify.where(away, "some-id", is_raw=True)


async def test_a_header_that_no_role_writes_ends_who_reads_the_topic(system: System) -> None:
    foreign = raw_batch.batch([Raw(b"{}", ((b"\xff", b""),))])
    offset = await raw_batch.send(system.options, TopicPartition(REJECTED, 0), foreign)
    run = sink.run(system.settings, client_options=system.options, health=Told(), stop=asyncio.Event())
    await ends_with(RecordUnreadable, "none of our roles", run)
    async with LogReader(system.options, REJECTED) as log:
        with pytest.raises(RecordUnreadable, match="none of our roles"):
            await anext(log.read({0: (offset, offset + 1)}))


@pytest.mark.parametrize("role", [rater, sink])
async def test_output_topics_with_another_count_are_refused_at_start(system: System, role: Any) -> None:
    async with system.admin() as admin:
        await admin.create_partitions({REJECTED: NewPartitions(9)})
    await eventually(lambda: _has(system, REJECTED, 9), ())
    run = role.run(system.settings, client_options=system.options, health=Told(), stop=asyncio.Event())
    await ends_with(UsageError, r"usage\.rejected has 9 partitions, the manifest says 4", run)
