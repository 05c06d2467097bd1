"""How a client's life ends: with the interpreter, a worker of a pool, a loop, or from its own `on_error`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import pytest

from meterstream.producers import AsyncMeterClient, MemoryTransport, MeterClient
from tests.unit.test_client import CALL, TIGHT, Away, ids_of

HEAD = """
import asyncio, atexit, logging, os, sys, time
from pathlib import Path
from meterstream.producers import AsyncMeterClient, MeterClient
from tests.metered_service import FileBroker
CALL = dict(tenant="acme", provider="openai", operation="chat", usage={"input_tokens": 3})
path = Path(sys.argv[1])
away = path.with_name(path.name + ".away")
tries = 0
class Counted(FileBroker):
    async def __aenter__(self):
        global tries
        tries += 1
        return await super().__aenter__()
def until_tried_again(times):
    last, give_up_at = tries, time.monotonic() + 20
    while tries < last + times and time.monotonic() < give_up_at:
        time.sleep(0.01)
broker = Counted(path)
"""
ENDS_S = 60
"""A process that has not ended by then hangs."""


def run(folder: Path, script: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """(ids that the broker has got, sorted; the process)."""
    broker = folder / "broker"
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script, broker],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
        timeout=ENDS_S,
    )
    ids = []
    for line in broker.read_text().splitlines():
        value = json.loads(line)
        ids += [event["id"] for event in (value if isinstance(value, list) else [value])]
    return sorted(ids), done


def test_a_slow_atexit_handler_does_not_end_the_sender(tmp_path: Path) -> None:
    script = """
away.touch()
client = MeterClient("script", transport=lambda: broker)
client.record(**CALL, id="kept")
def slow():
    until_tried_again(3)
    away.unlink()
atexit.register(slow)
"""
    ids, done = run(tmp_path, script)
    assert ids == ["kept"]
    assert done.stderr.count("\n") == 1 and "it waits" in done.stderr


def test_a_broker_that_comes_back_while_the_interpreter_ends_gets_what_waits(tmp_path: Path) -> None:
    script = """
import threading
away.touch()
client = MeterClient("script", transport=lambda: broker)
client.record(**CALL, id="kept")
def back():
    threading.main_thread().join()
    until_tried_again(2)
    away.unlink()
threading.Thread(target=back, daemon=True).start()
"""
    assert run(tmp_path, script)[0] == ["kept"]


POOLS = {
    "Pool": "pool = multiprocessing.get_context(way).Pool(2); pool.map(job, range(4)); pool.close(); pool.join()",
    "ProcessPoolExecutor": """
with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(way)) as pool:
    list(pool.map(job, range(4)))
""",
    "Process": """
workers = [multiprocessing.get_context(way).Process(target=job, args=(number,)) for number in range(4)]
for worker in workers: worker.start()
for worker in workers: worker.join()
""",
}


@pytest.mark.parametrize("pool", POOLS)
def test_what_the_workers_of_a_pool_have_recorded_is_sent_when_they_end(tmp_path: Path, pool: str) -> None:
    script = f"""
import concurrent.futures, multiprocessing
way = "fork"
client = MeterClient("script", transport=lambda: broker)
def job(number):
    away.touch()  # so that something waits when the worker ends
    client.record(**CALL, id=f"job-{{number}}")
    until_tried_again(1)
    away.unlink(missing_ok=True)
{POOLS[pool]}
"""
    ids, done = run(tmp_path, script)
    assert ids == [f"job-{number}" for number in range(4)]
    assert done.returncode == 0, done.stderr


LOOPS = """
client = AsyncMeterClient("script", transport=lambda: broker)
async def job(number):
    assert await client.record(**CALL, id=f"job-{number}")
for number in range(4):
    asyncio.run(job(number))
"""


@pytest.mark.parametrize(
    "end",
    ["", "assert asyncio.run(client.flush(30))", "assert asyncio.run(client.close(30))"],
    ids=["never closed", "flushed", "closed"],
)
def test_a_loop_for_each_job_sends_all_of_them(tmp_path: Path, end: str) -> None:
    ids, done = run(tmp_path, f"{LOOPS}\n{end}")
    assert ids == [f"job-{number}" for number in range(4)]
    assert done.stderr == ""


def test_between_two_loops_what_was_recorded_is_sent() -> None:
    transport = MemoryTransport()
    client = AsyncMeterClient("shop", transport=transport)
    for number in range(3):
        event_id = asyncio.run(client.record(**CALL))
        assert asyncio.run(client.flush(60))
        assert len(ids_of(transport)) == number + 1 and ids_of(transport)[-1] == event_id
    assert asyncio.run(client.close())


@pytest.mark.parametrize("call", ["client.flush(30)", "client.flush()", "client.close(30)", "sys.exit(3)"])
def test_an_on_error_that_waits_for_the_client_or_exits_stops_nothing(tmp_path: Path, call: str) -> None:
    script = f"""
away.touch()
def told(error):
    {call}
client = MeterClient("script", transport=lambda: broker, on_error=told)
client.record(**CALL, id="first")
until_tried_again(2)
away.unlink()
client.record(**CALL, id="second")
"""
    ids, done = run(tmp_path, script)
    assert ids == (["first"] if "close" in call else ["first", "second"])
    assert done.returncode == 0, done.stderr
    assert "Event loop is closed" not in done.stderr


def test_no_task_is_left_behind_when_a_connection_is_cut(tmp_path: Path) -> None:
    script = """
class Leaves(FileBroker):
    async def __aenter__(self):
        async def for_ever():
            await asyncio.Event().wait()
        self.task = asyncio.create_task(for_ever())
        return await super().__aenter__()
away.touch()
broker = Leaves(path)
client = MeterClient("script", transport=lambda: broker)
client.record(**CALL)
client.close(0.1)
"""
    assert "destroyed" not in run(tmp_path, script)[1].stderr


def test_a_drop_waits_for_nobody() -> None:
    """The sender's loop is held up: a drop that asked it would hang."""
    begun, go_on = threading.Event(), threading.Event()

    class Held(Away):
        async def __aenter__(self) -> Self:
            begun.set()
            go_on.wait()
            return await super().__aenter__()

    client = MeterClient("shop", transport=Held, bounds=TIGHT)
    client.record(**CALL)
    assert begun.wait(ENDS_S)
    taken = 1
    while client.record(**CALL) is not None:
        taken += 1
    threads = [threading.Thread(target=client.record, kwargs=CALL, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ENDS_S)
    assert not any(thread.is_alive() for thread in threads)
    assert (client.stats().recorded, client.stats().dropped) == (taken, 5)
    go_on.set()
    client.close(0.1)
