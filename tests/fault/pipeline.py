"""The whole pipeline on one stack, for runs with faults: start, publish, wait until all is accounted for, judge."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from meterstream.deploy import stack
from meterstream.deploy.kafka import client_options
from meterstream.deploy.stack import logs as stack_logs
from meterstream.deploy.stack import process
from meterstream.deploy.stack.state import Folder
from meterstream.deploy.verify import run as whole
from meterstream.producers.transport.kafka import KafkaTransport
from meterstream.schema.position import SourcePartition, last_before
from meterstream.schema.settings import Settings
from meterstream.schema.topics import source_ids
from meterstream.sinks.postgres import verify as snapshots
from tests import topic_log
from tests.fault.postgres_dump import dump
from tests.fault.roles import ROLES, Role, clean_environment
from tests.fault.workload import catalog_records, hostile, oracle_prices, price_entries, usage
from tests.oracle.compare import compare
from tests.oracle.model import Expected, expect
from tests.oracle.records import RawRecord
from tests.prepared import without_prices

WITHIN_S = 200.0
POLL_S = 0.1
CHUNK = 100
LOAD_PAUSE_S = 0.2
"""Some hundred events a second: faults meet a stream, and the judgement stays short."""
EVENTS_MAX = 1_000_000
"""More than any run publishes before it is told to end."""
GROUPS = {
    "rater": "meterstream-rater",
    "sink-postgres": "meterstream-sink-postgres",
    "aggregator": "meterstream-aggregator",
}


class Pipeline:
    """One stack with topics, tables and prices; roles come and go. Seeds rise from the first one."""

    def __init__(self, home: Path, settings: Settings, logs: Path, seed: int) -> None:
        self.home = home
        self.settings = settings
        self.seed = seed
        self._logs = logs
        self._change_at = datetime.now(UTC) - timedelta(hours=2)
        self._entries = price_entries(self._change_at)
        self._roles: list[Role] = []
        self._numbers = itertools.count(1)

    @classmethod
    async def prepared(cls, home: Path, logs: Path, seed: int) -> Pipeline:
        """Makes topics, tables and prices on a stack that runs."""
        settings = await without_prices(home)
        pipeline = cls(home, settings, logs, seed)
        async with AIOKafkaProducer(**client_options(settings)) as producer:
            for key, value in catalog_records(pipeline._entries):
                await producer.send_and_wait("meter.catalog", value, key=key, partition=0)
        return pipeline

    # ------------------------------------------------------------------ roles

    async def start(
        self,
        name: str,
        *,
        armed: Iterable[str] = (),
        is_alone: bool = True,
        settings: Mapping[str, str | int] | None = None,
        program: Sequence[str] = ROLES,
    ) -> Role:
        """Starts a role. `is_alone`: nobody else is in its group, so a dead life can be thrown out of it at once."""
        env = clean_environment() | {"METERSTREAM_HOME": str(self.home)}
        env |= {f"METERSTREAM_{key.upper()}": str(value) for key, value in (settings or {}).items()}

        async def throw_out() -> None:
            await self.throw_out(name)

        role = Role(
            name,
            env=env,
            log=self._logs / f"{name}-{next(self._numbers)}.log",
            armed=armed,
            on_death=throw_out if is_alone else None,
            program=program,
        )
        self._roles.append(role)
        await role.start()
        return role

    async def stop_roles(self) -> None:
        """Ends all of them."""
        await asyncio.gather(*(role.stop() for role in self._roles))
        self._roles.clear()

    async def members(self, name: str) -> list[str]:
        """The member ids of a role's consumer group."""
        async with _Admin(self.settings) as admin:
            (response,) = await admin.describe_consumer_groups([GROUPS[name]])
            return [member[0] for group in response.groups for member in group[5]]

    async def throw_out(self, name: str, members: Iterable[str] | None = None) -> None:
        """Ends memberships at the broker, as the session's timeout would, only sooner.

        Where the broker is away too, the timeout does it.
        """
        with suppress(KafkaError, OSError):
            leaving = await self.members(name) if members is None else members
            async with _Admin(self.settings) as admin:
                coordinator = await admin.find_coordinator(GROUPS[name])
                for member in leaving:
                    await admin._send_request(LeaveGroupRequest(GROUPS[name], member), coordinator)

    # ------------------------------------------------------------------ faults of the servers

    def kill_server(self, name: str) -> None:
        """SIGKILL to a server of this stack, then waits until it is gone: `up` would take a dying one for alive."""
        state = Folder(self.home).load()
        assert state is not None
        recorded = state.processes[name]
        assert process.send(recorded, signal.SIGKILL)
        assert process.wait(recorded, timeout_s=10)

    def start_servers(self) -> None:
        """Whatever does not run; blocks, on the main thread."""
        stack.up(self.home, durable=False, bind_to_parent=True)

    async def truncate(self, topic: str, begins: Mapping[int, int]) -> None:
        """Deletes what lies before these offsets."""
        before = {TopicPartition(topic, number): RecordsToDelete(begin) for number, begin in begins.items()}
        async with _Admin(self.settings) as admin:
            await admin.delete_records(before)

    async def configure(self, configs: Mapping[str, Mapping[str, str]]) -> None:
        """Gives topics these settings, and no others."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic, dict(own)) for topic, own in configs.items()]
        async with _Admin(self.settings) as admin:
            for response in await admin.alter_configs(resources):
                assert all(code == 0 for code, *_ in response.resources), response

    # ------------------------------------------------------------------ load

    async def publish(self, is_over: asyncio.Event) -> None:
        """Publishes a simulation with a seed of its own, until it is told to end."""
        self.seed += 1
        async with KafkaTransport(client_options(self.settings)) as transport:
            for number, record in enumerate(usage(self.seed, EVENTS_MAX, self._change_at)):
                await transport.send(record.topic, record.key, record.value, record.headers)
                if number % CHUNK == CHUNK - 1:
                    await asyncio.sleep(LOAD_PAUSE_S)  # the rate of the load, nothing waits for it
                    if is_over.is_set():
                        return
        raise AssertionError(f"{EVENTS_MAX} events were not enough")

    async def publish_hostile(self) -> None:
        """Once a run: what no producer should send, in one partition so that its order is known."""
        async with AIOKafkaProducer(**client_options(self.settings)) as producer:
            for topic, value, headers in hostile(self._change_at):
                await producer.send_and_wait(topic, value, key=b"hostile", partition=3, headers=headers)

    # ------------------------------------------------------------------ judgement

    async def wait(self, what: str, condition: Callable[[], Awaitable[bool]], within_s: float = WITHIN_S) -> None:
        """Polls until the condition holds. The limit is for what hangs: it says nothing about speed."""
        deadline = time.monotonic() + within_s
        while not await condition():
            assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
            await asyncio.sleep(POLL_S)

    def words(self) -> str:
        """Last words: how the roles' lives ended, the ends of their logs and of the servers', their health."""
        said = [f"--- {role.name} {role.exits}\n{role.said()[-6000:]}" for role in self._roles]
        for name, log in stack_logs.find(self.home, None).items():
            said.append("\n".join([f"--- {name}", *stack_logs.last_lines(log, 10)]))
        return "\n".join([*said, *(f"--- {path.name}\n{path.read_text()}" for path in self.home.glob("run/*.json"))])

    async def has_grown(self, rows: int = 500) -> Callable[[], Awaitable[bool]]:
        """A condition for `wait`: so many more ledger rows than now."""
        before = await self._ledger_rows()

        async def condition() -> bool:
            return await self._ledger_rows() >= before + rows

        return condition

    async def _ledger_rows(self) -> int:
        connection = await asyncpg.connect(self.settings.postgres_reader_dsn.get_secret_value())
        try:
            rows: int = await connection.fetchval("SELECT count(*) FROM meter.ledger")
        finally:
            await connection.close()
        return rows

    async def wait_until_quiet(self) -> None:
        """Until every position of the raw topics is covered in Postgres."""
        ends = {source: last_before(end) for source, end in (await self._raw_ends()).items()}
        covered: dict[SourcePartition, int] = {}
        try:
            await self.wait("all positions covered", lambda: self._is_covered(ends, covered))
        except AssertionError as error:
            missing = {source: (end, covered.get(source)) for source, end in ends.items() if covered.get(source) != end}
            error.add_note(f"(end, covered) where they differ: {missing}")
            raise

    async def watch(self, is_over: asyncio.Event) -> int:
        """Verifies snapshots until it is told to end; returns how many. Fails on the first that disagrees."""
        snapshots_seen = 0
        while not is_over.is_set():
            result = await whole.verify(self.settings)
            assert result.is_good, f"seed {self.seed}: {result}"
            snapshots_seen += 1
        return snapshots_seen

    async def judge(self) -> Expected:
        """Compares Postgres with the model and with the topics; returns what was expected. Fails on any difference."""
        records = await self._raw_records()
        expected = expect(records, oracle_prices(self._entries))
        connection = await asyncpg.connect(self.settings.postgres_admin_dsn.get_secret_value())
        try:
            differences = compare(expected, await dump(connection))
            claims = await connection.fetchval(
                "SELECT (SELECT count(*) FROM meter.claims_timed) + (SELECT count(*) FROM meter.claims_hashed)"
            )
        finally:
            await connection.close()
        assert not differences, f"seed {self.seed}: {len(differences)} differences: {differences[:10]}"
        assert claims == len(expected.ledger), f"seed {self.seed}: {claims} claims, {len(expected.ledger)} events"
        result = await whole.verify(self.settings, is_raw=True)
        assert result.is_good and result.raw is not None, f"seed {self.seed}: {result}"
        assert sum(partition.positions for partition in result.raw) == expected.positions
        return expected

    async def _is_covered(self, ends: dict[SourcePartition, int], covered: dict[SourcePartition, int]) -> bool:
        try:
            connection = await asyncpg.connect(self.settings.postgres_reader_dsn.get_secret_value())
        except (asyncpg.PostgresError, OSError):
            return False  # it is being restarted
        try:
            covered.update(await snapshots.covered(connection))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False
        finally:
            await connection.close(timeout=5)
        return all(covered[source] >= end for source, end in ends.items())

    async def _raw_ends(self) -> dict[SourcePartition, int]:
        ends = await topic_log.ends(client_options(self.settings), *source_ids())
        return {SourcePartition(source_ids()[topic], number): end for (topic, number), end in ends.items()}

    async def _raw_records(self) -> list[RawRecord]:
        return [
            RawRecord(
                record.topic,
                record.partition,
                record.offset,
                record.timestamp,
                record.value,
                tuple(record.headers),
            )
            for record in await topic_log.read(client_options(self.settings), *source_ids())
        ]


class _Admin:
    def __init__(self, settings: Settings) -> None:
        self._client = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=5_000)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        await self._client.start()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
