"""The transport and the two publishing commands against a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from click.testing import CliRunner, Result

from meterstream.deploy import stack as local_stack
from meterstream.deploy import topics
from meterstream.deploy.cli.group import program
from meterstream.deploy.connections import resolve
from meterstream.deploy.stack import Addresses
from meterstream.producers.line_check import KEY_CHARACTERS_MAX
from meterstream.producers.transport import kafka as kafka_transport
from meterstream.producers.transport.kafka import KafkaTransport
from meterstream.schema.cloudevents import STRUCTURED, STRUCTURED_HEADERS, media_type
from meterstream.schema.errors import DeliveryFailed, Unreachable
from meterstream.schema.settings import Settings
from meterstream.schema.topics import BACKFILL, EVENT_BYTES_MAX, RAW
from tests import topic_log

pytestmark = pytest.mark.stack

EVENT = {
    "specversion": "1.0",
    "source": "test",
    "type": "meterstream.usage.v1",
    "time": "2026-11-20T10:00:00Z",
    "data": {"provider": "openai", "model": "gpt-4o", "operation": "chat", "usage": {"input_tokens": 3}},
}


@pytest.fixture(scope="module", autouse=True)
def _topics(home: Path, stack: Addresses) -> None:
    asyncio.run(topics.apply(resolve(Settings.load(home=home), ("kafka_bootstrap",))))


@pytest.fixture
def settings_of_the_stack(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERSTREAM_HOME", str(home))


def records(stack: Addresses, topic: str) -> list[ConsumerRecord]:
    """Everything in the topic."""
    return asyncio.run(topic_log.read({"bootstrap_servers": stack.kafka_bootstrap}, topic))


def ids_of(stack: Addresses, topic: str, name: str) -> list[str]:
    """Of the events of `events_file(..., name, ...)`, as often as they are there."""
    ours = (record.value for record in records(stack, topic) if f'"id": "{name}-'.encode() in record.value)
    return sorted(json.loads(value)["id"] for value in ours)


def events_file(path: Path, name: str, count: int) -> Path:
    file = path / f"{name}.jsonl"
    events = (EVENT | {"id": f"{name}-{number:06d}", "tenant": f"tenant-{number % 7}"} for number in range(count))
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    return file


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody else gets meanwhile and that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["publish", *arguments], standalone_mode=False, catch_exceptions=False)


async def test_records_arrive_as_they_were_sent_and_a_tenant_stays_in_one_partition(stack: Addresses) -> None:
    async with KafkaTransport({"bootstrap_servers": stack.kafka_bootstrap}, unacknowledged_max=10) as transport:
        for number in range(500):
            tenant = f"tenant-{number % 7}"
            value = json.dumps({"id": f"t-{number:03d}", "tenant": tenant}).encode()
            await transport.send(BACKFILL, tenant.encode(), value, STRUCTURED_HEADERS)
            assert transport.acknowledged >= number - 10
    assert transport.acknowledged == 500
    everything = await asyncio.to_thread(records, stack, BACKFILL)
    found = [record for record in everything if record.value.startswith(b'{"id": "t-')]
    assert sum(high - low + 1 for low, high in transport.offsets.values()) == 500 == len(found)
    assert {media_type(record.headers) for record in found} == {STRUCTURED}
    partitions: dict[bytes, set[int]] = {}
    order: dict[bytes, list[str]] = {}
    for record in found:
        partitions.setdefault(record.key, set()).add(record.partition)
        order.setdefault(record.key, []).append(json.loads(record.value)["id"])
    assert all(len(numbers) == 1 for numbers in partitions.values())
    assert all(ids == sorted(ids) for ids in order.values())


async def test_a_record_that_the_broker_refuses_is_an_error(stack: Addresses) -> None:
    async with KafkaTransport({"bootstrap_servers": stack.kafka_bootstrap}) as transport:
        await transport.send(BACKFILL, b"t", b"{}", STRUCTURED_HEADERS)
        await transport.flush()
        with pytest.raises(DeliveryFailed, match="MessageSizeTooLarge") as caught:
            await transport.send(BACKFILL, b"t", b"x" * 2_000_000, STRUCTURED_HEADERS)
    assert caught.value.confirmed == 1


async def test_the_longest_event_is_accepted_even_if_it_cannot_be_compressed(stack: Addresses) -> None:
    key = ("\U0001f511" * KEY_CHARACTERS_MAX).encode()
    async with KafkaTransport({"bootstrap_servers": stack.kafka_bootstrap}) as transport:
        await transport.send(BACKFILL, key, Random(1).randbytes(EVENT_BYTES_MAX + 100), STRUCTURED_HEADERS)
    assert transport.acknowledged == 1


async def test_a_broker_that_falls_silent_is_an_error_that_says_what_it_had_confirmed(
    home: Path, stack: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    [kafka] = [server for server in local_stack.status(home).servers if server.name == "kafka"]
    assert kafka.pid is not None

    async def send_into_silence(pid: int) -> None:
        async with KafkaTransport({"bootstrap_servers": stack.kafka_bootstrap}) as transport:
            await transport.send(BACKFILL, b"t", b"{}", STRUCTURED_HEADERS)
            await transport.flush()
            os.kill(pid, signal.SIGSTOP)
            # Only now: a slow machine may take longer to confirm.
            monkeypatch.setattr(kafka_transport, "STALLED_AFTER_S", 1.0)
            await transport.send(BACKFILL, b"t", b"{}", STRUCTURED_HEADERS)

    try:
        with pytest.raises(DeliveryFailed, match="confirmed nothing for 1 s") as caught:
            await send_into_silence(kafka.pid)
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    assert caught.value.confirmed == 1


async def test_no_broker_is_said_with_the_fix() -> None:
    with closed_port() as port, pytest.raises(Unreachable, match=r"Connect call failed.*meterstream up"):
        async with KafkaTransport({"bootstrap_servers": f"127.0.0.1:{port}"}):
            pass


@pytest.mark.parametrize("command", [["publish", "events.jsonl"], ["simulate"], ["topics", "ls"]])
def test_no_broker_is_one_line_without_the_log_of_a_library(tmp_path: Path, command: list[str]) -> None:
    events_file(tmp_path, "events", 1)
    with closed_port() as port:
        done = subprocess.run(
            [sys.executable, "-c", "from meterstream.deploy.cli import main; main()", *command],
            cwd=tmp_path,
            env=os.environ | {"METERSTREAM_KAFKA_BOOTSTRAP": f"127.0.0.1:{port}"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"meterstream: no Kafka broker answers at 127.0.0.1:{port}, or it refuses us (")
    assert "run `meterstream up`" in line


@pytest.mark.usefixtures("settings_of_the_stack")
def test_a_file_is_published_once_and_a_bad_line_is_named(stack: Addresses, tmp_path: Path) -> None:
    file = events_file(tmp_path, "once", 300)
    with file.open("a") as out:
        out.write(json.dumps(EVENT | {"id": "once-bad"}) + "\n")
    first = invoke(str(file))
    assert first.return_value == 1
    assert f"{file}:301: tenant is missing" in first.stderr
    assert "300 events sent to usage.raw and confirmed" in first.stdout
    second = invoke(str(file))
    assert second.return_value == 1
    assert f"{file}:301: tenant is missing" in second.stderr
    assert "already published: 300 events" in second.stdout
    assert "1 bad line was not sent: mend it and run this again" in second.stderr
    assert ids_of(stack, RAW, "once") == [f"once-{n:06d}" for n in range(300)]


DIES = """
import os, sys
from meterstream.deploy.cli import main
from meterstream.producers import publish
from meterstream.producers.transport.kafka import KafkaTransport

calls, number, stop_at, send = 0, int(sys.argv.pop(1)), int(sys.argv.pop(1)), KafkaTransport.send

async def counting(*args):
    global calls
    calls += 1
    if calls == stop_at:
        os.kill(os.getpid(), number)
    await send(*args)

KafkaTransport.send = counting
publish.CHECKPOINT_S = 0.0  # one after each chunk of the file
main()
"""


@pytest.mark.usefixtures("settings_of_the_stack")
@pytest.mark.parametrize("topic", [RAW, BACKFILL])
def test_events_that_the_topic_will_reject_for_their_age_are_said(tmp_path: Path, topic: str) -> None:
    file = tmp_path / "old.jsonl"
    file.write_text(json.dumps(EVENT | {"id": "old", "tenant": "t", "time": "2020-01-01T00:00:00Z"}))
    published = invoke(str(file), "--topic", topic)
    assert published.stdout == f"1 event sent to {topic} and confirmed; the file has 1 line\n"
    assert ("1 event will be rejected" in published.stderr) == (topic == RAW)


@pytest.mark.usefixtures("settings_of_the_stack")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_continued(stack: Addresses, home: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The signal comes while some events are confirmed, some are on their way, and some are not yet read."""
    events, stop_at = 20_000, 12_000
    name = f"killed-{number.name}"
    file = events_file(tmp_path, name, events)
    known = set((home / "publish").glob("*.json"))
    killed = subprocess.run(
        [sys.executable, "-c", DIES, str(int(number)), str(stop_at), "publish", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == (130 if number == signal.SIGINT else -number), killed.stderr
    (checkpoint,) = set((home / "publish").glob("*.json")) - known
    sent = json.loads(checkpoint.read_text())["sent"]
    assert 0 < sent < events
    resumed = invoke(str(file))
    assert resumed.return_value == 0
    assert resumed.stdout == (
        f"{events - sent:,} events sent to {RAW} and confirmed; earlier runs had sent {sent:,}; "
        f"the file has {events:,} lines\n"
    )
    arrived = Counter(ids_of(stack, RAW, name))
    assert sorted(arrived) == [f"{name}-{n:06d}" for n in range(events)]
    # What was confirmed at the last checkpoint is not sent again.
    assert {times for event_id, times in arrived.items() if event_id < f"{name}-{sent:06d}"} == {1}


@pytest.mark.usefixtures("settings_of_the_stack")
def test_the_simulator_says_what_it_sent(stack: Addresses) -> None:
    before = len(records(stack, BACKFILL))
    result = CliRunner().invoke(program, ["simulate", "--seed", "5", "--events", "3000", "--topic", BACKFILL])
    assert result.exit_code == 0, result.output
    assert "seed 5" in result.stdout
    assert "3,000 events sent to usage.backfill and confirmed" in result.stdout
    assert re.search(r"USD \d+\.\d+ in all, at the prices that come with this version", result.stdout)
    assert "WHERE source = 'simulator/5/" in result.stdout
    assert len(records(stack, BACKFILL)) - before == 3000


def test_the_example_of_the_documentation_runs(stack: Addresses) -> None:
    text = (Path(__file__).parents[2] / "docs" / "publish.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "127.0.0.1:9092" in code
    script = code.replace("127.0.0.1:9092", stack.kafka_bootstrap)
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
    (record,) = [record for record in records(stack, RAW) if b"checkout-service" in record.value]
    assert (record.key, media_type(record.headers)) == (b"acme", STRUCTURED)


def test_the_clients_of_the_documentation_run(stack: Addresses, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "publish.md").read_text("utf-8")
    snippets = re.findall(r"```python sdk\n(.*?)```", text, re.DOTALL)
    assert len(snippets) >= 3
    for snippet in snippets:
        script = snippet.replace("127.0.0.1:9092", stack.kafka_bootstrap).replace("/var/lib", str(tmp_path))
        done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr == ""
    sent: list[dict[str, Any]] = []
    for record in records(stack, RAW):
        if b'"source":"checkout"' in record.value:
            value = json.loads(record.value)
            sent += value if isinstance(value, list) else [value]
    assert Counter(event["data"]["provider"] for event in sent) == {"openai": 3, "anthropic": 2}
    assert [event["data"]["usage"]["output_tokens"] for event in sent if event["data"].get("estimated")] == [35]
    assert "Hello!" not in str(sent)
