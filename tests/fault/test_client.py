"""The client and a real broker that is killed, paused and away: everything recorded is in the topic, once by its id."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meterstream.deploy.stack import process
from meterstream.deploy.stack.state import Folder
from meterstream.producers import AsyncMeterClient, Bounds, MeterClient
from meterstream.schema.topics import RAW
from tests import topic_log
from tests.fault.pipeline import Pipeline

pytestmark = [pytest.mark.stack, pytest.mark.campaign]

BURST = 100_000
WITHIN_S = 120.0
ROOM = Bounds(memory_bytes_max=256 * 1024 * 1024)


def call(number: int) -> dict[str, Any]:
    return {
        "tenant": f"tenant-{number % 7}",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "operation": "chat",
        "usage": {"input_tokens": number, "output_tokens": 5},
    }


async def arrived(pipeline: Pipeline, source: str) -> Counter[str]:
    """id -> how often it is in the topic; an id with two bodies is an error."""
    found: Counter[str] = Counter()
    bodies: dict[str, Any] = {}
    for record in await topic_log.read({"bootstrap_servers": pipeline.settings.kafka_bootstrap}, RAW):
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
    found = await arrived(pipeline, source)
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
    found = await arrived(pipeline, "paused")
    assert set(found) == set(ids)
    print(f"{repeats(found)} repeats")


SERVICE = """
import os, sys
from meterstream.producers import MeterClient
from tests.fault.test_client import call
client = MeterClient("killed", bootstrap_servers=sys.argv[1], spool=sys.argv[2])
ids = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(int(sys.argv[4]), int(sys.argv[5])):
    os.write(ids, f"{client.record(**call(number))}\\n".encode())
client.close(60)
"""


async def test_the_service_is_killed_again_and_again(pipeline: Pipeline, tmp_path: Path) -> None:
    recorded = tmp_path / "ids"

    def start(first: int, end: int) -> subprocess.Popen[bytes]:
        arguments = [pipeline.settings.kafka_bootstrap, str(tmp_path / "spool"), str(recorded), str(first), str(end)]
        return subprocess.Popen(
            [sys.executable, "-c", SERVICE, *arguments],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )

    for run in range(6):
        service = start(run * BURST, (run + 1) * BURST)
        target = recorded.stat().st_size if recorded.exists() else 0
        while not recorded.exists() or recorded.stat().st_size < target + 37 * 3_000 * (run + 1):
            assert service.poll() is None
            await asyncio.sleep(0.01)
        if run == 3:
            pipeline.kill_server("kafka")
        service.kill()
        service.wait()
        if run == 3:
            pipeline.start_servers()
    assert start(0, 1).wait() == 0
    found = await arrived(pipeline, "killed")
    ids = recorded.read_text().split()
    missing = set(ids) - set(found)
    assert not missing
    assert len(found) <= len(ids) + 6, "at most the call in which it was killed, once each"
    print(f"{len(ids)} recorded, {repeats(found)} repeats")
    # A kill in the middle of a frame leaves a file that says so; its record() had not returned.
    left = [path for path in (tmp_path / "spool").rglob("*") if path.is_file() and ".new-" not in str(path)]
    assert [path for path in left if path.suffix != ".torn"] == []
    print(f"{len(left)} torn files")


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
    found = await arrived(pipeline, "million")
    assert set(found) == expected
    assert repeats(found) == 0, "without a fault nothing is sent twice"
