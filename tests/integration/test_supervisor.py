"""The supervisor with small roles of the test's own, in processes as they really run."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from meterstream.deploy.running import health, registration, status, supervisor
from meterstream.deploy.running.discovery import FILE
from meterstream.deploy.running.health import RoleHealth
from meterstream.deploy.running.supervisor import Supervisor
from meterstream.deploy.stack import process
from meterstream.deploy.stack.process import ProcessId
from meterstream.schema.errors import StackError, UsageError
from meterstream.schema.settings import Settings
from tests.prepared import without_prices

SUPERVISOR = """
import json, sys
from pathlib import Path
from meterstream.deploy.running import logs
from meterstream.deploy.running.supervisor import Restarts, Supervisor
logs.configure("supervisor")
home, commands, drain_timeout_s, pause_s = sys.argv[1:]
restarts = Restarts(first_s=float(pause_s), longest_s=max(0.1, float(pause_s)))
sys.exit(Supervisor(Path(home), json.loads(commands), float(drain_timeout_s), restarts).run())
"""

# Each role says on its log when it is ready to be signalled.
DRAINS = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("drained", flush=True)))
print("ready", flush=True)
while True: signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
print("ready", flush=True)
while True: signal.pause()
"""
ENDS = "print('begins', flush=True); raise ValueError('boom')"


def gives_up(code: int) -> str:
    return f"""
import sys, logging
from meterstream.deploy.running import logs
logs.configure("role")
print("one start")
logging.getLogger("meterstream.role").error("because of this")
print("an unrelated last line", file=sys.stderr)
sys.exit({code})
"""


def eventually(is_true: Callable[[], bool], what: str) -> None:
    """Looks until it is so; the limit is only there to end a test that has failed."""
    deadline = time.monotonic() + 100
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


class Run:
    """A supervisor in a process of its own."""

    def __init__(self, home: Path, drain_timeout_s: float, *, pause_s: float = 0.02, **programs: str) -> None:
        self.home = home
        commands = {role: [sys.executable, "-c", program] for role, program in programs.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, home, json.dumps(commands), str(drain_timeout_s), str(pause_s)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def log(self, role: str) -> str:
        path = self.home / "logs" / f"{role}.log"
        return path.read_text() if path.exists() else ""

    def await_log(self, role: str, text: str, times: int = 1) -> None:
        eventually(lambda: self.log(role).count(text) >= times, f"{role}: {text!r} {times} times")

    def role(self, name: str) -> RoleHealth:
        return next(role for role in health.read_all(self.home) if role.role == name)

    def identity(self, role: str) -> ProcessId:
        report = self.role(role).report
        assert report is not None
        return report.process

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said."""
        said = self.process.communicate()[1]
        return self.process.returncode, said


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Ends what a failed test leaves running."""
    made: list[Run] = []
    yield made
    for run in made:
        with run.process:
            run.process.kill()


def test_it_drains_on_sigterm_and_ends_well(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 30, one=DRAINS, two=DRAINS)
    runs.append(run)
    for role in ("one", "two"):
        run.await_log(role, "ready")
        assert run.role(role).state == "starting", "it has not said anything of itself"
    run.process.send_signal(signal.SIGTERM)
    code, said = run.end()
    assert code == 0, said
    assert [run.log(role).split() for role in ("one", "two")] == [["ready", "drained"]] * 2
    assert not registration.is_running(tmp_path)
    assert registration.wanted(tmp_path) is None


def test_a_role_that_ends_is_started_again_and_again(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 30, bad=ENDS, good=DRAINS)
    runs.append(run)
    run.await_log("good", "ready")
    good = run.identity("good")
    run.await_log("bad", "begins", times=4)
    assert process.is_alive(good), "its neighbour is left alone"
    run.process.send_signal(signal.SIGINT)
    code, said = run.end()
    assert code == 0, said
    report = run.role("bad").report
    assert report is not None
    assert report.state == "stopped"
    assert "bad ended with exit code 1: ValueError: boom (3 in a row)" in said
    assert said.count("good starts") == 1


ENDS_TWICE = """
import signal, sys
from pathlib import Path
from meterstream.deploy.running.health import HealthFile
home, lives = Path({home!r}), Path({home!r}, "lives")
with lives.open("a") as file: file.write("x")
if lives.stat().st_size < 3: raise ValueError("boom")
HealthFile(home, "bad").write("running", lag_records=0)
print("at work", flush=True)
signal.pause()
"""


def test_status_says_why_a_role_has_ended_and_when_it_starts_again(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 30, pause_s=3600, bad=ENDS)
    runs.append(run)
    eventually(lambda: [role.state for role in health.read_all(tmp_path)] == ["failed"], "it has failed")
    found = status.look(Settings(home=tmp_path))
    [role] = found.roles
    assert (role.state, role.failures, role.pid, found.is_well) == ("failed", 1, None, False)
    assert re.fullmatch(r"once, next start in \d{4} s: ended with exit code 1: ValueError: boom", str(role.reason))
    assert "bad fails and is started again by itself: `meterstream logs bad` says why" in found.next_steps
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 0


def test_status_remembers_for_a_while_that_a_role_has_failed(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 30, bad=ENDS_TWICE.format(home=str(tmp_path)))
    runs.append(run)
    run.await_log("bad", "at work")
    [role] = status.look(Settings(home=tmp_path)).roles
    assert (role.state, role.failures) == ("running", 2)
    assert role.reason == "has failed 2 times in a row before: ended with exit code 1: ValueError: boom"
    run.process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("code", [supervisor.EXIT_STOPPED, supervisor.EXIT_CONFIG])
def test_a_role_that_gives_up_is_not_started_again(tmp_path: Path, runs: list[Run], code: int) -> None:
    run = Run(tmp_path, 30, done=gives_up(code))
    runs.append(run)
    assert run.end()[0] == code, "no role is left, so the supervisor ends as the role did"
    assert registration.wanted(tmp_path) is not None, "it should run, and status says so"
    assert run.log("done").count("one start") == 1
    found = run.role("done")
    assert found.report is not None
    assert found.state == "stopped"
    assert str(found.report.reason).endswith(f"(exit {code}): because of this")


def test_a_role_that_gives_up_leaves_the_others_running(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 30, done=gives_up(supervisor.EXIT_STOPPED), good=DRAINS)
    runs.append(run)
    run.await_log("good", "ready")
    eventually(lambda: run.role("done").state == "stopped", "done is stopped")
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 0
    found = run.role("done")
    assert found.report is not None
    assert "because of this" in str(found.report.reason), "the reason outlives the supervisor"


def test_a_role_that_does_not_drain_is_killed(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 0.2, stubborn=STUBBORN)
    runs.append(run)
    run.await_log("stubborn", "ready")
    role = run.identity("stubborn")
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 1
    assert not process.is_alive(role)
    report = run.role("stubborn").report
    assert report is not None
    assert (report.state, report.reason) == ("stopped", "killed before it had drained")


def test_a_second_signal_does_not_wait(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 3600, stubborn=STUBBORN)
    runs.append(run)
    run.await_log("stubborn", "ready")
    run.process.send_signal(signal.SIGINT)
    run.await_log("stubborn", "no")
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 1


def test_roles_do_not_outlive_a_killed_supervisor(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 30, role=DRAINS)
    runs.append(run)
    run.await_log("role", "ready")
    role = run.identity("role")
    run.process.kill()
    run.end()
    assert process.wait(role, 30)
    assert run.log("role").endswith("drained\n")
    assert run.role("role").state == "dead"
    assert not registration.is_running(tmp_path)
    wanted = registration.wanted(tmp_path)
    assert wanted is not None and wanted.roles == ["role"], "nobody has asked it to stop"
    assert supervisor.stop(tmp_path) == []
    assert registration.wanted(tmp_path) is None


def test_a_copy_of_the_folder_leaves_the_originals_roles_alone(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "original", 30, role=DRAINS)
    runs.append(run)
    run.await_log("role", "ready")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    assert not registration.is_running(tmp_path / "copy")
    assert supervisor.stop(tmp_path / "copy") == []
    assert process.is_alive(run.identity("role"))
    (tmp_path / "original").rename(tmp_path / "moved")
    assert supervisor.stop(tmp_path / "moved") == ["role"]
    assert run.end()[0] == 0


def test_a_role_that_is_killed_says_only_that(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 30, role=DRAINS)
    runs.append(run)
    run.await_log("role", "ready")
    process.send(run.identity("role"), signal.SIGKILL)
    run.await_log("role", "ready", times=2)
    run.process.send_signal(signal.SIGTERM)
    assert "role ended by SIGKILL (1 in a row); starts again" in run.end()[1]


def test_one_supervisor_a_folder(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, 30, role=DRAINS)
    runs.append(run)
    run.await_log("role", "ready")
    with pytest.raises(UsageError, match=rf"role \(process {run.process.pid}\) run already in "):
        Supervisor(tmp_path, {}, 1.0).run()
    with pytest.raises(UsageError, match="run already in "):
        supervisor.start(tmp_path, ["other"])
    supervisor.start(tmp_path, ["role"])
    assert supervisor.stop(tmp_path) == ["role"]
    assert run.end()[0] == 0
    assert supervisor.stop(tmp_path) == []


def test_a_background_supervisor_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"(?s)did not start.*there is no role nope; there are: rater"):
        supervisor.start(tmp_path / "new", ["nope"])


@pytest.mark.stack
@pytest.mark.usefixtures("stack")
def test_real_roles_in_the_background(home: Path) -> None:
    asyncio.run(without_prices(home))
    supervisor.start(home, ["rater"], bind_to_parent=True)
    assert registration.is_running(home)

    def state() -> str:
        return next((role.state for role in health.read_all(home) if role.role == "rater"), "unknown")

    def targets() -> list[str]:
        return [each for group in json.loads((home / FILE).read_text()) for each in group["targets"]]

    eventually(lambda: state() == "running", "the rater runs")
    eventually(lambda: len(targets()) == 1, "Prometheus is told")
    with urlopen(f"http://{targets()[0]}/metrics") as answer:  # as Prometheus does
        assert b'meterstream_state{role="rater",state="running"} 1.0' in answer.read()
    assert supervisor.stop(home) == ["rater"]
    assert state() == "stopped"
    assert targets() == []
