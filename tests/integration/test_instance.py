"""Named members of a consumer group: a killed process comes back as itself, and two of one name do not fight."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from meterstream.deploy import database, topics
from meterstream.deploy import stack as local_stack
from meterstream.deploy.connections import resolve
from meterstream.deploy.running import health, supervisor
from meterstream.deploy.stack import Addresses
from meterstream.schema.metrics import Metric
from meterstream.schema.settings import Settings
from meterstream.schema.topics import PRICED, partitions_of
from meterstream.sinks.postgres.service import GROUP, TOPICS
from tests.fault.roles import clean_environment

pytestmark = pytest.mark.stack

SINK, AGGREGATOR = "sink-postgres", "aggregator"
PARTITIONS = {SINK: sum(partitions_of(topic) for topic in TOPICS), AGGREGATOR: partitions_of(PRICED)}
FIGURES = {SINK: Metric.SINK_PARTITIONS, AGGREGATOR: Metric.AGGREGATOR_PARTITIONS}
LIMIT_S = 100.0

Start = Callable[[str, str], subprocess.Popen[bytes]]


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a role in a folder of its own; all are killed at the end."""
    settings = resolve(Settings(home=home))
    asyncio.run(topics.apply(settings))
    logins = (database.INGEST_ROLE, database.READER_ROLE)
    asyncio.run(database.prepare(settings, passwords={login: local_stack.password(home, login) for login in logins}))
    processes = []

    def start(folder: str, role: str) -> subprocess.Popen[bytes]:
        env = clean_environment() | {
            "METERSTREAM_HOME": str(tmp_path / folder),
            "METERSTREAM_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "METERSTREAM_POSTGRES_INGEST_DSN": settings.postgres_ingest_dsn.get_secret_value(),
            "METERSTREAM_INSTANCE": f"one-{role}",
        }
        with (tmp_path / f"{folder}.log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "meterstream.deploy.roles", role],
                    env=env,
                    cwd=tmp_path,
                    stderr=log,
                )
            )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def has_all_partitions(home: Path, pid: int) -> bool:
    return any(
        role.report is not None
        and role.report.process.pid == pid
        and role.report.detail.get(FIGURES[role.role]) == PARTITIONS[role.role]
        for role in health.read_all(home)
    )


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


async def members(stack: Addresses) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap)
    await admin.start()
    try:
        (response,) = await admin.describe_consumer_groups([GROUP])
        return [member[0] for group in response.groups for member in group[5]]
    finally:
        await admin.close()


def test_a_killed_process_comes_back_as_itself(start: Start, stack: Addresses, tmp_path: Path) -> None:
    first = start("home", SINK)
    until(lambda: has_all_partitions(tmp_path / "home", first.pid), "the first life works")
    (before,) = asyncio.run(members(stack))
    first.kill()
    first.wait()
    second = start("home", SINK)
    until(lambda: has_all_partitions(tmp_path / "home", second.pid), "the second life works")
    (after,) = asyncio.run(members(stack))  # a stranger would have found the dead one beside it
    assert before != after
    second.send_signal(signal.SIGTERM)
    assert second.wait(LIMIT_S) == 0
    assert len(asyncio.run(members(stack))) == 1, "its place is kept for a restart"


@pytest.mark.parametrize("role", [SINK, AGGREGATOR])
def test_of_two_processes_of_one_name_the_older_stops(start: Start, tmp_path: Path, role: str) -> None:
    older = start("older", role)
    until(lambda: has_all_partitions(tmp_path / "older", older.pid), "the older works")
    newer = start("newer", role)
    assert older.wait(LIMIT_S) == supervisor.EXIT_STOPPED
    (found,) = health.read_all(tmp_path / "older")
    assert found.state == "stopped"
    assert found.report is not None and "METERSTREAM_INSTANCE must name one process" in str(found.report.reason)
    until(lambda: has_all_partitions(tmp_path / "newer", newer.pid), "the newer works")
    assert newer.poll() is None
    newer.send_signal(signal.SIGTERM)
    assert newer.wait(LIMIT_S) == 0


def test_a_folder_keeps_its_name(tmp_path: Path) -> None:
    name = supervisor.instance_of(tmp_path / "a")
    assert name == supervisor.instance_of(tmp_path / "a") != supervisor.instance_of(tmp_path / "b")
    assert Settings(instance=f"{name}-sink-postgres").instance
