"""The client and a real broker that is killed, paused and away: everything recorded is in the topic, once by its id."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterstream.deploy import stack, topics
from meterstream.deploy.connections import resolve
from meterstream.deploy.stack import process
from meterstream.deploy.stack.state import Folder
from meterstream.producers import AsyncMeterClient, Bounds, MeterClient
from meterstream.schema.settings import Settings
from meterstream.schema.topics import RAW
from tests import topic_log
from tests.fault.pipeline import Pipeline

pytestmark = [pytest.mark.stack, pytest.mark.campaign]

BURST = 100_000
WITHIN_S = 120.0
OUTAGE_S = 60.0
ROOM = Bounds(memory_bytes_max=256 * 1024 * 1024)


def call(number: int) -> dict[str, Any]:
    return {
        "tenant": f"tenant-{number % 7}",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "operation": "chat",
        "usage": {"input_tokens": number, "output_tokens": 5},
    }


async def arrived(bootstrap: str, source: str) -> Counter[str]:
    """id -> how often it is in the topic; an id with two bodies is an error."""
    found: Counter[str] = Counter()
    bodies: dict[str, Any] = {}
    for record in await topic_log.read({"bootstrap_servers": bootstrap}, RAW):
        value = json.loads(record.value)
        for event in value if isinstance(value, list) else [value]:
            if event["source"] == source:
                found[event["id"]] += 1
                assert bodies.setdefault(event["id"], event["data"]) == event["data"]
    return found


def repeats(found: Counter[str]) -> int:
    return found.total() - len(found)


@contextmanager
def paused_broker(pipeline: Pipeline) -> Iterator[None]:
    state = Folder(pipeline.home).load()
    assert state is not None
    assert process.send(state.processes["kafka"], signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(state.processes["kafka"], signal.SIGCONT)


SERVICE = """
import os, sys
from meterstream.producers import MeterClient
from tests.fault.test_client import call
source, bootstrap, spool, recorded, first, end = sys.argv[1:]
client = MeterClient(source, bootstrap_servers=bootstrap, spool=spool)
ids = os.open(recorded, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(int(first), int(end)):
    os.write(ids, f"{client.record(**call(number))}\\n".encode())
client.close(60)
"""
ID_BYTES = 37
"""Of a line of the file of ids."""


class Service:
    """Records in a process of its own, into a spool; what record() has returned is in a file."""

    def __init__(self, pipeline: Pipeline, folder: Path, source: str) -> None:
        self.spool = folder / "spool"
        self.recorded = folder / "ids"
        self._arguments = [source, pipeline.settings.kafka_bootstrap, str(self.spool), str(self.recorded)]

    def start(self, first: int, end: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", SERVICE, *self._arguments, str(first), str(end)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )

    def count(self) -> int:
        """How many calls were recorded."""
        return self.recorded.stat().st_size // ID_BYTES if self.recorded.exists() else 0

    async def until(self, process: subprocess.Popen[bytes], count: int) -> None:
        """Until so many calls were recorded in all."""
        while self.count() < count:
            assert process.poll() is None
            await asyncio.sleep(0.01)

    def left(self) -> list[Path]:
        """Files that somebody would still have to send. A kill in the middle of a frame leaves a file that says so; its
        record() had not returned."""
        files = [path for path in self.spool.rglob("*") if path.is_file() and ".new-" not in str(path)]
        print(f"{sum(path.suffix == '.torn' for path in files)} torn files")
        return [path for path in files if path.suffix != ".torn"]


async def test_a_minute_without_a_broker_and_the_service_killed_in_it(pipeline: Pipeline, tmp_path: Path) -> None:
    """A burst of 100,000; all of it is in the ledger, once."""
    await pipeline.start("rater")
    await pipeline.start("sink-postgres")
    service = Service(pipeline, tmp_path, "minute")
    process = service.start(0, BURST)
    await service.until(process, BURST // 5)
    pipeline.kill_server("kafka")
    down_since = time.monotonic()
    await service.until(process, BURST // 2)
    process.kill()
    process.wait()
    process = service.start(service.count(), BURST)
    await service.until(process, BURST)
    await asyncio.sleep(max(0.0, down_since + OUTAGE_S - time.monotonic()))  # the outage itself
    pipeline.start_servers()
    process.wait()
    assert service.start(0, 1).wait() == 0, "the next one sends what its predecessors have left"
    assert service.left() == []
    await pipeline.wait_until_quiet()
    connection = await asyncpg.connect(pipeline.settings.postgres_reader_dsn.get_secret_value())
    try:
        stored = await connection.fetch("SELECT event_id FROM meter.ledger WHERE source = 'minute'")
        again = await connection.fetchval("SELECT count(*) FROM meter.duplicates WHERE source = 'minute'")
    finally:
        await connection.close()
    ids, found = service.recorded.read_text().split(), Counter(row["event_id"] for row in stored)
    assert len(ids) == len(set(ids)) == BURST + 1
    assert set(ids) <= set(found) and set(found.values()) == {1}
    assert len(found) <= len(ids) + 1, "at most the call in which it was killed"
    print(f"{len(found)} in the ledger, {again} came twice and count once")


@pytest.mark.parametrize("is_on_disk", [True, False], ids=["spool", "memory"])
async def test_the_broker_is_killed_in_a_burst(pipeline: Pipeline, tmp_path: Path, is_on_disk: bool) -> None:
    source = f"burst-{is_on_disk}"
    options: Any = {"spool": tmp_path} if is_on_disk else {"bounds": ROOM}
    client = MeterClient(source, bootstrap_servers=pipeline.settings.kafka_bootstrap, **options)
    ids = [client.record(**call(number)) for number in range(BURST // 10)]
    assert client.flush(WITHIN_S)
    ids += [client.record(**call(number)) for number in range(BURST // 10, BURST // 2)]
    pipeline.kill_server("kafka")
    ids += [client.record(**call(number)) for number in range(BURST // 2, BURST)]
    assert client.flush(5.0) is False
    pipeline.start_servers()
    assert client.flush(WITHIN_S)
    assert client.close()
    found = await arrived(pipeline.settings.kafka_bootstrap, source)
    assert set(found) == set(ids) and len(ids) == BURST
    print(f"{repeats(found)} repeats")
    assert repeats(found) <= 20_000, "what is sent again is bounded by the window"
    assert (client.stats().dropped, client.stats().refused) == (0, 0)
    assert not list(tmp_path.iterdir())


async def test_the_broker_is_paused_in_a_burst(pipeline: Pipeline) -> None:
    client = MeterClient("paused", bootstrap_servers=pipeline.settings.kafka_bootstrap, bounds=ROOM)
    ids = [client.record(**call(number)) for number in range(BURST // 10)]
    assert client.flush(WITHIN_S)
    ids += [client.record(**call(number)) for number in range(BURST // 10, BURST // 2)]
    with paused_broker(pipeline):
        ids += [client.record(**call(number)) for number in range(BURST // 2, BURST)]
        assert client.flush(10.0) is False
    assert client.flush(WITHIN_S)
    assert client.close()
    found = await arrived(pipeline.settings.kafka_bootstrap, "paused")
    assert set(found) == set(ids)
    print(f"{repeats(found)} repeats")


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Path]:
    """The home of a stack whose broker has a disk of 128 MiB."""
    if os.geteuid():
        pytest.skip("nobody but root may mount a file system")
    home, before = tmp_path / "stack", tmp_path / "before"
    stack.up(home, durable=False, bind_to_parent=True)
    stack.down(home)
    disk = home / "kafka"
    disk.rename(before)
    disk.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m,mode=0700", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this system mounts no file systems")
    try:
        shutil.copytree(before, disk, dirs_exist_ok=True)
        yield home
    finally:
        stack.down(home)
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("is_on_disk", [True, False], ids=["spool", "memory"])
async def test_the_brokers_disk_is_full(cramped: Path, tmp_path: Path, is_on_disk: bool) -> None:
    """In the middle of a burst; once there is room again, it gets the rest."""
    disk = cramped / "kafka"
    addresses = stack.up(cramped, durable=False, bind_to_parent=True)
    await topics.apply(resolve(Settings(home=cramped)))
    options: Any = {"spool": tmp_path / "spool"} if is_on_disk else {"bounds": ROOM}
    client = MeterClient("full", bootstrap_servers=addresses.kafka_bootstrap, **options)
    ids = [client.record(**call(number)) for number in range(BURST // 10)]
    assert client.flush(WITHIN_S)
    with (disk / "filler").open("wb", buffering=0) as filler:
        while shutil.disk_usage(disk).free > 1 << 20:
            filler.write(bytes(1 << 16))
    ids += [client.record(**call(number)) for number in range(BURST // 10, BURST)]
    assert client.flush(20.0) is False
    state = Folder(cramped).load()
    assert state is not None
    assert process.wait(state.processes["kafka"], WITHIN_S), "a broker that can write nowhere ends"
    (disk / "filler").unlink()
    assert stack.up(cramped, durable=False, bind_to_parent=True) == addresses
    assert client.flush(WITHIN_S)
    assert client.close()
    found = await arrived(addresses.kafka_bootstrap, "full")
    assert set(found) == set(ids) and len(ids) == BURST
    assert (client.stats().dropped, client.stats().refused) == (0, 0)
    print(f"{repeats(found)} repeats")


async def test_the_service_is_killed_again_and_again(pipeline: Pipeline, tmp_path: Path) -> None:
    service = Service(pipeline, tmp_path, "killed")
    for run in range(6):
        process = service.start(run * BURST, (run + 1) * BURST)
        await service.until(process, service.count() + 3_000 * (run + 1))
        if run == 3:
            pipeline.kill_server("kafka")
        process.kill()
        process.wait()
        if run == 3:
            pipeline.start_servers()
    assert service.start(0, 1).wait() == 0
    found = await arrived(pipeline.settings.kafka_bootstrap, "killed")
    ids = service.recorded.read_text().split()
    assert not set(ids) - set(found)
    assert len(found) <= len(ids) + 6, "at most the call in which it was killed, once each"
    assert service.left() == []
    print(f"{len(ids)} recorded, {repeats(found)} repeats")


async def test_a_million_through_threads_and_a_loop_at_once(pipeline: Pipeline, tmp_path: Path) -> None:
    bootstrap = pipeline.settings.kafka_bootstrap
    share = 1_000_000 // 3
    ids: list[list[str | None]] = [[], [], []]
    threaded = MeterClient("million", bootstrap_servers=bootstrap, spool=tmp_path, when_full="block", block_s=WITHIN_S)

    def work(mine: list[str | None]) -> None:
        for number in range(share):
            mine.append(threaded.record(**call(number)))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in ids[:2]]
    for thread in threads:
        thread.start()
    options: Any = {"bootstrap_servers": bootstrap, "when_full": "block", "block_s": WITHIN_S}
    async with AsyncMeterClient("million", **options) as client:
        for number in range(share):
            ids[2].append(await client.record(**call(number)))
            if number % 500 == 0:
                await asyncio.sleep(0)  # what the service does beside it
        assert await client.flush(WITHIN_S)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert threaded.close(WITHIN_S)
    expected = {event_id for mine in ids for event_id in mine}
    assert len(expected) == 3 * share and None not in expected
    found = await arrived(pipeline.settings.kafka_bootstrap, "million")
    assert set(found) == expected
    assert repeats(found) == 0, "without a fault nothing is sent twice"
