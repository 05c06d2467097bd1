"""Processes are recognised beyond doubt, and nobody else's is ever signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterstream.deploy.stack import process
from meterstream.deploy.stack.process import Held, ProcessId


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process, which must live."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        yield other
        assert other.poll() is None, "a process that is not ours was ended"
        other.kill()


def spawn(tmp_path: Path, program: str) -> Held:
    command = [sys.executable, "-I", "-S", "-c", program]
    return process.spawn(command, cwd=tmp_path, log=tmp_path / "log", env={})


def test_a_recycled_id_is_not_ours(bystander: subprocess.Popen[bytes]) -> None:
    found = process.identify(bystander.pid)
    assert found is not None
    before = ProcessId(found.pid, found.started_ticks - 1, found.boot_id)
    other_boot = ProcessId(found.pid, found.started_ticks, "another boot")
    for recycled in (before, other_boot):
        assert not process.is_alive(recycled)
        assert not process.send(recycled, signal.SIGKILL)
        assert process.wait(recycled, 0)
        process.kill_group(recycled, 0)
    assert process.is_alive(found)


def test_nothing_runs_before_it_is_released(tmp_path: Path) -> None:
    held = spawn(tmp_path, "print('ran')")
    assert process.is_alive(held.process)
    assert not process.wait(held.process, 0)
    held.drop()
    assert process.wait(held.process, 30)
    assert (tmp_path / "log").read_text() == ""


def test_it_stays_the_same_process_in_a_session_of_its_own(tmp_path: Path) -> None:
    program = "import os, sys; print(os.getpid(), os.getsid(0), os.getcwd(), sys.stdin.read() == '')"
    held = spawn(tmp_path, program)
    held.release()
    assert process.wait(held.process, 30)
    assert (tmp_path / "log").read_text().split() == [str(held.process.pid)] * 2 + [str(tmp_path), "True"]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_exit_code_is_kept_for_who_asks(tmp_path: Path) -> None:
    held = spawn(tmp_path, "raise SystemExit(7)")
    assert process.exit_code(held.process) is None
    held.release()
    os.waitid(os.P_PID, held.process.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive(held.process)
    assert process.exit_code(held.process) == 7


def test_a_command_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    held = process.spawn(["/no/such/command"], cwd=tmp_path, log=tmp_path / "log", env={})
    held.release()
    assert process.wait(held.process, 30)
    assert "cannot start /no/such/command: " in (tmp_path / "log").read_text()


def test_a_group_ends_as_a_whole(tmp_path: Path) -> None:
    program = "import os, signal; os.fork(); open(str(os.getpid()), 'w').close(); signal.pause()"
    held = spawn(tmp_path, program)
    held.release()
    while len(made := [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]) < 2:
        assert process.is_alive(held.process)
    process.kill_group(held.process, 30)
    assert [pid for pid in made if process.identify(pid)] == []


def test_who_works_in_a_folder(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "bb").mkdir()
    held = spawn(inner, "import signal; print('up', flush=True); signal.pause()")
    held.release()
    while not (inner / "log").read_text():
        assert process.is_alive(held.process)
    assert process.working_in(inner) == process.working_in(tmp_path) == [held.process.pid]
    assert process.working_in(tmp_path / "a" / "bb") == []
    process.kill_group(held.process, 30)
    assert process.working_in(tmp_path) == []
