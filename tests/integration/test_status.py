"""`meterstream status` and the other commands, as a person or a script sees them: figures, exit code, what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meterstream.deploy import stack as local_stack
from meterstream.deploy.running.health import HealthFile
from meterstream.deploy.stack import process
from meterstream.deploy.stack.state import Folder

pytestmark = pytest.mark.stack
MAIN = "from meterstream.deploy.cli import main; main()"
NOWHERE = "127.0.0.1:1"
NOBODYS_DSN = f"postgresql://u:secret@{NOWHERE}/x"


def cli(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METERSTREAM_")}
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        env=environment | {"METERSTREAM_HOME": str(home)} | settings,
        cwd=home.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def states(home: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    done = cli(home, "status", "--json")
    found = json.loads(done.stdout)
    assert found["is_well"] is (done.returncode == 0)
    return done.returncode, {part["name"]: part for part in [*found["servers"], *found["roles"]]}


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[Path]:
    """A stack of the test's own, to break."""
    folder = tmp_path / "home"
    local_stack.up(folder, durable=False, bind_to_parent=True)
    yield folder
    local_stack.down(folder)


def test_where_nothing_runs_it_says_what_to_do(tmp_path: Path) -> None:
    done = cli(tmp_path / "new", "status")
    assert done.returncode == 1
    assert "nothing runs here: `meterstream up --roles`" in done.stdout
    assert not (tmp_path / "new").exists(), "looking makes nothing"


def test_servers_are_asked_and_a_dead_broker_leaves_no_lag(own_home: Path) -> None:
    HealthFile(own_home, "rater").write("running", lag_records=0)
    code, found = states(own_home)
    assert (code, found["kafka"]["state"], found["rater"]["lag_records"]) == (0, "running", 0)
    known = Folder(own_home).load()
    assert known is not None
    for name in ("valkey", "postgres"):
        process.send(known.processes[name], signal.SIGSTOP)
    code, found = states(own_home)
    for name in ("valkey", "postgres"):
        process.send(known.processes[name], signal.SIGCONT)
    assert (code, found["valkey"]["state"], found["postgres"]["state"]) == (1, "no answer", "no answer")
    process.send(known.processes["kafka"], signal.SIGKILL)
    assert process.wait(known.processes["kafka"], 30)
    HealthFile(own_home, "rater").write("running", lag_records=0)
    done = cli(own_home, "status")
    assert done.returncode == 1
    assert "`meterstream up` starts the servers that do not run" in done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("rater")]
    assert "lag unknown" in line


SUPERVISOR = """
import sys
from pathlib import Path
from meterstream.deploy.running.supervisor import Supervisor
role = [sys.executable, "-c", "import sys; sys.exit(78)"]
sys.exit(Supervisor(Path(sys.argv[1]), {"rater": role}, 1.0).run())
"""


@pytest.mark.usefixtures("stack")
def test_roles_that_should_run_and_do_not_are_not_well(home: Path) -> None:
    assert subprocess.run([sys.executable, "-c", SUPERVISOR, home], check=False).returncode == 78
    code, found = states(home)
    assert (code, found["rater"]["state"], found["rater"]["should_run"]) == (1, "stopped", True)
    assert cli(home, "down").stdout.startswith("stopped kafka")
    _, found = states(home)
    assert found["rater"]["should_run"] is False


def test_servers_elsewhere_are_asked_too(tmp_path: Path) -> None:
    done = cli(
        tmp_path / "new", "status", METERSTREAM_KAFKA_BOOTSTRAP=NOWHERE, METERSTREAM_POSTGRES_READER_DSN=NOBODYS_DSN
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("no answer") == 2
    assert "secret" not in done.stdout


def test_where_only_some_servers_are_named_it_says_which_is_not_and_who_runs(tmp_path: Path) -> None:
    home = tmp_path / "new"
    for role in ("rater", "sink-postgres"):
        HealthFile(home, role).write("running", lag_records=0)
    done = cli(home, "status", METERSTREAM_KAFKA_BOOTSTRAP=NOWHERE)
    assert done.returncode == 1
    assert "nothing runs here" not in done.stdout
    assert (
        "the settings name no postgres, and the one of this folder does not run; rater, sink-postgres may"
        in done.stdout
    )
    assert "set METERSTREAM_POSTGRES_*_DSN, or start it with `meterstream up`" in done.stdout
    done = cli(home, "status", METERSTREAM_POSTGRES_READER_DSN=NOBODYS_DSN)
    assert "the settings name no kafka" in done.stdout and "set METERSTREAM_KAFKA_BOOTSTRAP, or" in done.stdout
    done = cli(home, "status")
    assert "nothing runs here" not in done.stdout
    assert "`meterstream up` starts the servers that do not run" in done.stdout


@pytest.mark.parametrize("command", ["status", "topics ls", "run rater", "prepare"])
def test_an_address_of_no_broker_is_a_question_asked_wrongly(tmp_path: Path, command: str) -> None:
    done = cli(tmp_path / "new", *command.split(), METERSTREAM_KAFKA_BOOTSTRAP="here:there")
    assert (done.returncode, done.stdout) == (2, "")
    assert "METERSTREAM_KAFKA_BOOTSTRAP: give host:port[,host:port], not 'here:there'" in done.stderr


@pytest.mark.parametrize(
    "command", ["status", "verify", "price ls", "budget ls", "alerts ls", "prepare", "migrate up", "run rater"]
)
@pytest.mark.parametrize("role", ["ADMIN", "INGEST", "READER"])
def test_a_dsn_that_cannot_be_read_is_a_question_asked_wrongly(tmp_path: Path, command: str, role: str) -> None:
    name = f"METERSTREAM_POSTGRES_{role}_DSN"
    done = cli(tmp_path / "new", *command.split(), **{name: "postgresql://u:se/c@h/x"})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{name}: this is no postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in done.stderr
    assert "se/c" not in done.stderr and "Traceback" not in done.stderr


def test_run_says_at_once_where_it_has_no_servers(tmp_path: Path) -> None:
    done = cli(tmp_path / "new", "run", "rater", "sink-postgres")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("meterstream: no broker: run `meterstream up`")


@pytest.mark.parametrize(
    "command",
    [
        "prepare",
        "topics ls",
        "topics apply",
        "topics verify",
        "migrate status",
        "migrate up",
        "price ls",
        "price load",
        "tenant ls",
        "tenant set acme --privacy on",
        "tenant login acme --login acme_reader --drop",
        "verify",
        "verify --raw",
        "where some-id",
        "simulate --events 1",
    ],
)
@pytest.mark.parametrize("is_set", [True, False])
def test_without_servers_a_command_says_so_in_one_line(tmp_path: Path, command: str, is_set: bool) -> None:
    dsns = {f"METERSTREAM_POSTGRES_{name}_DSN": NOBODYS_DSN for name in ("ADMIN", "INGEST", "READER")}
    settings = {"METERSTREAM_KAFKA_BOOTSTRAP": NOWHERE, **dsns} if is_set else {}
    done = cli(tmp_path / "new", *command.split(), **settings)
    [line] = done.stderr.splitlines()
    assert line.startswith("meterstream: ")
    assert "meterstream up" in line or "meterstream status" in line
    assert "secret" not in line
    assert done.returncode == 1
