"""What is decided before a server starts: binaries, ports, configuration, cache keys."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Thread

import pytest
from requests import exceptions

from meterstream.deploy.stack import jars, kafka, ports, postgres, valkey, wheels
from meterstream.deploy.stack.host import HINTS, Host, keep_small, log_tail
from meterstream.deploy.stack.state import Folder, State
from meterstream.schema.errors import StackError

PORTS = {"kafka": 1001, "controller": 1002}


def test_ports_are_kept_where_they_are_free() -> None:
    draw = count(20_000)
    chosen = ports.choose(
        ("a", "b", "c"),
        {"a": 15_000, "b": 15_001},
        taken=[20_000],
        is_free=lambda port: port != 15_001,
        draw=lambda: next(draw),
    )
    assert chosen == {"a": 15_000, "b": 20_001, "c": 20_002}


def test_no_free_port_is_said() -> None:
    with pytest.raises(StackError, match="no free port"):
        ports.choose(("a",), {}, is_free=lambda _: False)


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.is_open(port)
    assert ports.is_free(port)
    assert not ports.is_open(port)


def test_the_broker_is_reached_on_the_loopback_only() -> None:
    settings = dict(line.split("=", 1) for line in kafka.properties(PORTS, "data").splitlines())
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:1001,CONTROLLER://127.0.0.1:1002"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:1001"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:1002"
    assert settings["message.max.bytes"] == "4194304"
    assert settings["auto.create.topics.enable"] == "false"


def test_the_jvm_cache_belongs_to_exactly_these_jars_and_paths(tmp_path: Path) -> None:
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    (tmp_path / "java" / "release").write_text("25")
    first = kafka.cache_file(java, [Path("a.jar"), Path("b.jar")])
    assert first == kafka.cache_file(java, [Path("a.jar"), Path("b.jar")])
    assert first != kafka.cache_file(java, [Path("b.jar"), Path("a.jar")])
    (tmp_path / "java" / "release").write_text("26")
    assert first != kafka.cache_file(java, [Path("a.jar"), Path("b.jar")])


@pytest.fixture
def answering() -> Iterator[list[bytes]]:
    """A server that answers each connection with the next of these; its port comes first, as text."""
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                link, _ = server.accept()
                with link:
                    if link.recv(100) == b"end":
                        return
                    link.sendall(answers.pop(1))

        thread = Thread(target=serve)
        thread.start()
        answers.append(str(server.getsockname()[1]).encode())
        yield answers
        with socket.create_connection(server.getsockname()) as link:
            link.sendall(b"end")
        thread.join()


def test_brokers_are_counted(answering: list[bytes]) -> None:
    answering += [struct.pack(">iii", 20, 1, 1), struct.pack(">iii", 20, 1, 0), b"", b"HTTP"]
    port = int(answering[0])
    assert [kafka.broker_count(port) for _ in range(4)] == [1, 0, 0, 0]


def test_nobody_there_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert kafka.broker_count(port) == 0


def test_pins_are_complete() -> None:
    pinned = jars.pinned()
    assert len(pinned) == len({jar.file_name for jar in pinned}) == 44
    assert all(len(jar.sha256) == 64 for jar in pinned)
    assert pinned[0].file_name == f"kafka_2.13-{jars.KAFKA_VERSION}.jar"


def test_a_jar_that_is_not_what_was_pinned_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = jars.Jar("g", "good", "1", hashlib.sha256(b"good").hexdigest())
    bad = jars.Jar("g", "bad", "1", hashlib.sha256(b"bad").hexdigest())
    absent = jars.Jar("g", "absent", "1", hashlib.sha256(b"absent").hexdigest())
    monkeypatch.setattr(jars, "pinned", lambda: (good, bad, absent))
    (tmp_path / "good-1.jar").write_bytes(b"good")
    (tmp_path / "bad-1.jar").write_bytes(b"half")
    assert jars.missing(tmp_path) == [bad, absent]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(exceptions.SSLError, "REQUESTS_CA_BUNDLE"), (exceptions.ConnectTimeout, "proxy's settings")],
)
def test_a_download_that_fails_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError], remedy: str
) -> None:
    """pip may know a network's own authority, and this download not."""

    def project(*_: object) -> None:
        raise error

    monkeypatch.setattr("jgo.maven.MavenContext.project", project)
    with pytest.raises(StackError, match=rf"44 of 44 jars .*{error.__name__}\): .*{remedy}.*try again"):
        jars.download(tmp_path)


def test_binaries_named_by_the_variable_win(tmp_path: Path) -> None:
    for tool in ("postgres", "initdb"):
        (tmp_path / tool).touch(mode=0o755)
    named = {postgres.BIN_VARIABLE: str(tmp_path)}
    assert postgres.find_binaries("wheel", named) == tmp_path
    (tmp_path / "initdb").unlink()
    with pytest.raises(StackError, match=f"no initdb in {tmp_path} .METERSTREAM_PG_BIN names"):
        postgres.find_binaries("wheel", named)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda _: None)
    for find in (wheels.java, wheels.postgres, wheels.valkey):
        with pytest.raises(StackError, match=r'is missing: pip install "meterstream\[local\]"'):
            find()


def test_postgres_listens_on_the_loopback_only_and_is_safe_unless_told_otherwise() -> None:
    durable = postgres.server_command(Path("bin"), 5, durable=True)
    assert {"listen_addresses=127.0.0.1", "unix_socket_directories=", "port=5"} <= set(durable)
    assert "fsync=off" not in durable
    assert "fsync=off" in postgres.server_command(Path("bin"), 5, durable=False)


def test_valkey_wants_its_password() -> None:
    lines = valkey.configuration(5, "secret", durable=True).splitlines()
    assert {"bind 127.0.0.1", "port 5", "requirepass secret", "appendonly yes"} <= set(lines)
    assert "appendonly no" in valkey.configuration(5, "secret", durable=False)


@pytest.mark.parametrize(("sign", "fix"), HINTS)
def test_known_failures_come_with_their_fix(tmp_path: Path, sign: str, fix: str) -> None:
    """A helper that writes such a line and fails."""
    folder = Folder(tmp_path / "home")
    folder.make()
    folder.log("kafka").write_text("from an earlier start\n")
    host = Host(folder, State.new(), bind_to_parent=False)
    steps = host.run("kafka", ["/bin/sh", "-c", f"echo 'FATAL: {sign.upper()}' >&2; exit 3"], cwd=tmp_path)
    with pytest.raises(StackError) as caught:
        list(steps)
    said = str(caught.value)
    assert said.startswith("kafka could not be prepared by `sh`. Its log ends with:\n")
    assert f"Likely: {fix}" in said
    assert "earlier" not in said


def test_a_log_that_has_grown_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("1\n2\n3\n")
    keep_small(log, bytes_max=6)
    assert log.exists()
    assert log_tail(log, lines=2) == ["2", "3"]
    assert log_tail(log, 2, lines=5) == ["2", "3"]
    assert log_tail(log, lines=0) == []
    assert log_tail(log, 100, lines=1) == ["3"], "it was emptied and written to since"
    keep_small(log, bytes_max=5)
    assert not log.exists()
    assert log_tail(log) == []
    assert (tmp_path / "x.log.1").read_text() == "1\n2\n3\n"


def test_the_users_shell_does_not_change_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from meterstream.deploy.stack.host import environment

    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1m")
    monkeypatch.setenv("PGDATA", "elsewhere")
    assert set(environment()) <= {"PATH", "HOME", "LC_ALL", "TZ"}
    assert os.environ["PGDATA"] == "elsewhere"
