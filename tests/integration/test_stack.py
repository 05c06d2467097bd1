"""The local stack with real servers: whatever is killed or interrupted, `up` brings it back with its data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from meterstream.deploy import stack
from meterstream.deploy.stack import host, process
from meterstream.deploy.stack.process import ProcessId
from meterstream.deploy.stack.state import Folder
from meterstream.schema.errors import StackError

pytestmark = pytest.mark.stack

SERVERS = ("kafka", "postgres", "valkey")
UP = "import sys; from pathlib import Path; from meterstream.deploy import stack; "
UP += "stack.up(Path(sys.argv[1]), durable=False, bind_to_parent='bound' in sys.argv)"


def up(home: Path, **options: Any) -> stack.Addresses:
    return stack.up(home, durable=False, bind_to_parent=True, **options)


def processes(home: Path) -> dict[str, ProcessId]:
    known = Folder(home).load()
    return known.processes if known else {}


def states(home: Path) -> list[str]:
    return [server.state for server in stack.status(home).servers]


def valkey(home: Path, *words: str) -> str:
    """One command as a Redis client would send it; the answer as it comes."""
    password, _, port = stack.up(home).valkey_url.removeprefix("redis://:").partition("@127.0.0.1:")
    with socket.create_connection(("127.0.0.1", int(port.partition("/")[0])), timeout=60) as link:
        link.sendall(f"AUTH {password}\r\n{' '.join(words)}\r\nQUIT\r\n".encode())
        with link.makefile("r") as answers:
            return answers.read()


async def write_everywhere(home: Path, addresses: stack.Addresses) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=addresses.kafka_bootstrap)
    await admin.start()
    try:
        topic = NewTopic("kept", 1, 1, topic_configs={"message.timestamp.type": "LogAppendTime"})
        await admin.create_topics([topic])
    finally:
        await admin.close()
    async with AIOKafkaProducer(
        bootstrap_servers=addresses.kafka_bootstrap, compression_type="zstd", acks="all", max_request_size=4 << 20
    ) as producer:
        await producer.send_and_wait("kept", b"small")
        await producer.send_and_wait("kept", os.urandom(3 << 20))
    connection = await asyncpg.connect(addresses.dsn())
    try:
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    finally:
        await connection.close()
    assert "+OK\n+OK" in valkey(home, "SET", "kept", "42")


async def assert_kept(addresses: stack.Addresses) -> None:
    async with AIOKafkaConsumer(bootstrap_servers=addresses.kafka_bootstrap) as consumer:
        partition = TopicPartition("kept", 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        assert [(await consumer.getone()).serialized_value_size for _ in range(2)] == [5, 3 << 20]
    connection = await asyncpg.connect(addresses.dsn())
    try:
        assert await connection.fetchval("SELECT answer FROM kept") == 42
    finally:
        await connection.close()


async def test_life_in_a_folder_with_a_difficult_path(tmp_path: Path) -> None:
    """Longer than PostgreSQL's 1023 bytes, with blanks, a comma, quotes and letters outside ASCII."""
    home = tmp_path.joinpath("with a blank, 'ä' \"ж\"", *["x" * 250] * 4, "stack")
    addresses = up(home)
    before = processes(home)
    assert up(home) == addresses
    assert processes(home) == before
    assert stack.addresses(home) == addresses
    assert states(home) == ["running"] * 3

    await write_everywhere(home, addresses)
    assert stack.down(home) == list(SERVERS)
    assert stack.addresses(home) is None
    assert states(home) == ["stopped"] * 3
    assert process.working_in(home) == []
    assert stack.down(home) == []

    assert up(home) == addresses, "ports are kept where they are free"
    await assert_kept(addresses)
    stack.down(home)


async def test_killed_servers_come_back_with_their_data(tmp_path: Path) -> None:
    home = tmp_path / "stack"
    addresses = stack.up(home, bind_to_parent=True)
    await write_everywhere(home, addresses)
    for victims in (("postgres", "valkey"), SERVERS):
        killed = {name: processes(home)[name] for name in victims}
        for victim in killed.values():
            process.send(victim, signal.SIGKILL)
            assert process.wait(victim, 60)
        assert stack.addresses(home) is None
        assert [server.name for server in stack.status(home).servers if server.state == "died"] == sorted(victims)
        assert stack.up(home, bind_to_parent=True) == addresses
        assert not set(killed.values()) & set(processes(home).values())
    await assert_kept(addresses)
    stack.down(home)


def test_secrets_stay_in_private_files(tmp_path: Path) -> None:
    home = tmp_path / "stack"
    addresses = up(home)
    secret = addresses.postgres_password
    known = Folder(home).load()
    assert known is not None
    secrets = [secret, *known.passwords.values()]
    shown = [repr(addresses), stack.psql_line(home, addresses.postgres_port)]
    shown += [Path(f"/proc/{part.pid}/cmdline").read_text() for part in processes(home).values()]
    shown += [log.read_text() for log in Folder(home).logs.iterdir()]
    assert not [text for text in shown for word in secrets if word in text]
    for folder, _, names in os.walk(home):
        for path in (Path(folder, name) for name in names if not Path(folder, name).is_socket()):
            with suppress(FileNotFoundError):  # servers make and remove files all the time
                content, mode = path.read_bytes(), path.stat().st_mode
                assert mode & 0o077 == 0 or not any(word.encode() in content for word in secrets), path
    assert home.stat().st_mode & 0o077 == 0
    stack.down(home)


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from meterstream.deploy import stack
from meterstream.deploy.stack import host, process

calls, stop_at, number = 0, int(sys.argv[2]), int(sys.argv[3])
spawn = process.spawn

def counting(*args, **options):
    global calls
    calls += 1
    held = spawn(*args, **options)
    if calls == stop_at:
        os.kill(os.getpid(), number)
    return held

process.spawn = counting
stack.up(Path(sys.argv[1]), durable=False)
"""


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing_behind(tmp_path: Path, stop_at: int, number: signal.Signals) -> None:
    """The signal comes right after the n-th process (server, initdb, ...) was made."""
    home = tmp_path / "stack"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, home, str(stop_at), str(int(number))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (-number, 128 + number, 1), done.stderr
    assert ("KeyboardInterrupt" in done.stderr) == (number == signal.SIGINT), done.stderr
    assert process.working_in(home) == []
    assert processes(home) == {}
    if stop_at == 5:
        up(home)
        assert states(home) == ["running"] * 3
        stack.down(home)


@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_killed_up_loses_no_process(tmp_path: Path, stop_at: int) -> None:
    """What runs afterwards is written down, so the next `up` uses it and `down` ends it."""
    home = tmp_path / "stack"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, home, str(stop_at), str(int(signal.SIGKILL))],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    up(home)
    assert states(home) == ["running"] * 3
    assert stack.down(home) == list(SERVERS)
    assert process.working_in(home) == []


def test_two_ups_at_once(tmp_path: Path) -> None:
    home = tmp_path / "stack"
    both = [
        subprocess.Popen([sys.executable, "-c", UP, home], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [one.communicate()[1] for one in both]
    codes = [one.returncode for one in both]
    assert 0 in codes, errors
    assert all(code == 0 or "StackBusy" in error for code, error in zip(codes, errors, strict=True)), errors
    assert states(home) == ["running"] * 3
    assert len([pid for pid in process.working_in(home / "kafka")]) == 1
    stack.down(home)


def test_bound_servers_end_with_a_killed_parent(tmp_path: Path) -> None:
    home = tmp_path / "stack"
    parent = subprocess.Popen(
        [sys.executable, "-c", UP + "; print('up', flush=True); sys.stdin.read()", home, "bound"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        running = processes(home)
        parent.kill()
    assert set(running) == set(SERVERS)
    assert all(process.wait(server, 60) for server in running.values())


def test_what_is_in_the_way_is_avoided_or_said(tmp_path: Path) -> None:
    """A port that was taken is replaced; a server that fails says why and takes down those started with it."""
    home = tmp_path / "stack"
    first = up(home)
    stack.down(home)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", first.postgres_port))
        thief.listen()
        second = up(home)
    assert second.postgres_port != first.postgres_port
    assert (second.kafka_bootstrap, second.valkey_url) == (first.kafka_bootstrap, first.valkey_url)
    stack.down(home)

    (home / "postgres" / "global" / "pg_control").write_bytes(b"broken")
    with pytest.raises(StackError, match=r"(?s)postgres ended while it started.*pg_control.*postgres\.log"):
        up(home)
    assert process.working_in(home) == []
    assert states(home) == ["stopped"] * 3


def test_servers_that_the_state_does_not_know_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old state file was put back: what runs is named, not killed and not doubled."""
    monkeypatch.setattr(host, "ORPHANS_LIMIT_S", 0.1)
    home = tmp_path / "stack"
    up(home)
    running = processes(home)
    known = Folder(home).load()
    assert known is not None
    known.processes.clear()
    Folder(home).save(known)
    assert stack.down(home) == []
    with pytest.raises(StackError, match=f"other processes work in .*: .*{running['valkey'].pid}"):
        up(home)
    assert all(process.is_alive(server) for server in running.values())
    known.processes.update(running)
    Folder(home).save(known)
    assert stack.down(home) == list(SERVERS)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user(tmp_path: Path) -> None:
    """In a user namespace, so that the interpreter may live in root's home."""
    home = tmp_path / "stack"
    log = tmp_path / "log"
    program = f"import os; assert os.geteuid() != 0; {UP}; print(stack.down(Path(sys.argv[1])))"
    held = process.spawn([sys.executable, "-c", program, home], cwd=tmp_path, log=log, env=os.environ, user="namespace")
    held.release()
    assert process.wait(held.process, 100)
    said = log.read_text()
    if "user namespace" in said:
        pytest.skip("this system forbids user namespaces")
    assert said.splitlines()[-1:] == ["['kafka', 'postgres', 'valkey']"]


def test_data_open_only_with_their_version_of_postgres(tmp_path: Path) -> None:
    home = tmp_path / "stack"
    try:
        up(home, postgres="system")
    except StackError as error:
        pytest.skip(str(error))
    stack.down(home)
    version = (home / "postgres" / "PG_VERSION").read_text().strip()
    (home / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match=f"made by PostgreSQL 9, but .* is version {version}: choose the other"):
        up(home, postgres="system")
    assert process.working_in(home) == []
