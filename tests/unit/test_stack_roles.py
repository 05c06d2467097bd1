"""Health, logs and restarts of roles, without a process."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from meterstream.deploy.failures import BROKER_FIX
from meterstream.deploy.running import health, logs, status, supervisor
from meterstream.deploy.running.health import HealthFile, Report
from meterstream.deploy.stack import logs as stack_logs
from meterstream.deploy.stack.state import Folder
from meterstream.schema.errors import UsageError
from meterstream.schema.health import State
from meterstream.schema.settings import Settings

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def report(state: State, age_s: float) -> Report:
    at = NOW - timedelta(seconds=age_s)
    return Report(
        role="rater", process=health.myself(), folder="1:2", started_at=at, updated_at=at, state=state, lag_records=5
    )


@pytest.mark.parametrize(
    ("state", "age_s", "is_alive", "expected"),
    [
        ("running", 10, True, "running"),
        ("degraded", 1, True, "degraded"),
        ("running", 10.1, True, "silent"),
        ("draining", 1, False, "dead"),
        ("starting", 60, False, "dead"),
        ("stopped", 1e6, False, "stopped"),
        ("stopped", 1, True, "stopped"),
    ],
)
def test_verdict(state: State, age_s: float, is_alive: bool, expected: str) -> None:
    assert health.verdict(report(state, age_s), now=NOW, is_alive=is_alive) == expected


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    HealthFile(tmp_path, "rater").write("degraded", "12 % bad", 7, partitions=3, by_reason={"late": 1})
    HealthFile(tmp_path, "sink").write("running")
    rater, sink = health.read_all(tmp_path)
    assert (rater.role, rater.state, sink.state) == ("rater", "degraded", "running")
    assert rater.report is not None
    assert (rater.report.reason, rater.report.lag_records) == ("12 % bad", 7)
    assert rater.report.detail == {"partitions": 3, "by_reason": {"late": 1}}
    assert list((tmp_path / "run").glob(".*")) == []


@pytest.mark.parametrize(
    ("verdict", "should_run", "state", "lag", "shows_pid"),
    [
        ("running", True, "running", 5, True),
        ("degraded", True, "degraded", 5, True),
        ("starting", True, "starting", None, True),
        ("silent", True, "silent", None, True),
        ("dead", True, "dead", None, False),
        ("dead", False, "stopped", None, False),
        ("stopped", False, "stopped", None, False),
    ],
)
def test_a_role_that_does_not_speak_shows_no_figures(
    verdict: health.Verdict, should_run: bool, state: str, lag: int | None, shows_pid: bool
) -> None:
    found = health.RoleHealth(role="rater", state=verdict, report=report("running", 60), age_s=60.0)
    shown = status.judge(found, should_run=should_run)
    assert (shown.state, shown.lag_records, shown.pid is not None, shown.age_s) == (state, lag, shows_pid, 60.0)


def test_what_failed_is_forgotten_after_a_minute_at_work() -> None:
    begun = report("running", 60)
    for at_work_s, failures in ((59, 3), (60, 0)):
        said = msgspec.structs.replace(
            begun,
            updated_at=begun.started_at + timedelta(seconds=at_work_s),
            failures=3,
            last_failure="ended by SIGKILL",
        )
        shown = status.judge(health.RoleHealth(role="rater", state="running", report=said, age_s=0.0), should_run=True)
        assert shown.failures == failures
        assert shown.reason == ("has failed 3 times in a row before: ended by SIGKILL" if failures else None)


def test_a_full_disk_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    assert not any("free some space" in step for step in status.look(Settings(home=tmp_path)).next_steps)
    monkeypatch.setattr(status, "SPACE_BYTES_MIN", 1 << 80)
    found = status.look(Settings(home=tmp_path))
    assert found.free_bytes is not None and not found.is_well
    assert found.next_steps[0].startswith(
        f"only {found.free_bytes >> 20} MB are free on the disk of {tmp_path}: free some"
    )
    assert "Kafka ends" in found.next_steps[0] and "the sink waits" in found.next_steps[0]


def test_what_came_along_in_a_copy_of_the_folder_is_not_of_this_one(tmp_path: Path) -> None:
    original, moved = tmp_path / "original", tmp_path / "moved"
    HealthFile(original, "rater").write("running")
    shutil.copytree(original, tmp_path / "copy")
    assert health.read_all(tmp_path / "copy") == []
    original.rename(moved)
    assert [role.state for role in health.read_all(moved)] == ["running"]


def test_a_damaged_report_hides_no_other(tmp_path: Path) -> None:
    HealthFile(tmp_path, "rater").write("running")
    (tmp_path / "run" / "broken.json").write_text("{")
    assert [(role.role, role.state) for role in health.read_all(tmp_path)] == [
        ("broken", "unreadable"),
        ("rater", "running"),
    ]


def test_a_report_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    file = HealthFile(tmp_path, "rater")
    (tmp_path / "run").rmdir()
    file.write("running")
    assert health.read_all(tmp_path) == []


def test_the_limiter_counts_what_it_held_back() -> None:
    now = 0.0
    limiter = logs.Limiter(2, 10.0, clock=lambda: now)
    assert [limiter.take("a") for _ in range(5)] == [(True, 0), (True, 0), (False, 0), (False, 0), (False, 0)]
    assert limiter.take("b") == (True, 0)
    now = 10.0
    assert limiter.take("a") == (True, 3)
    now = 25.0
    assert limiter.take("a") == (True, 0)


def test_noise_becomes_one_line_and_ours_is_never_held_back() -> None:
    now = 0.0
    stream = io.StringIO()
    handler = logs.LineHandler(stream, logs.Limiter(1, 10.0, clock=lambda: now))
    handler.setFormatter(logs.LineFormatter())

    def say(name: str, text: str) -> None:
        record = logging.LogRecord(name, logging.WARNING, __file__, 1, text, None, None)
        record.created = NOW.timestamp()
        handler.handle(record)

    for number in range(4):
        say("aiokafka.conn", f"noise {number}")
        say("meterstream.roles", f"ours {number}")
    now = 10.0
    say("aiokafka.cluster", "later")
    said = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert said == [
        "WARNING aiokafka.conn noise 0",
        *(f"WARNING meterstream.roles ours {number}" for number in range(4)),
        "WARNING aiokafka suppressed 3",
        "WARNING aiokafka.cluster later",
    ]


def test_a_record_is_one_line_in_utc() -> None:
    record = logging.LogRecord("a.b", logging.ERROR, __file__, 1, "2 mistakes:\n  - one\n  - two", None, None)
    record.created = NOW.timestamp()
    assert logs.LineFormatter().format(record) == "2026-11-21T12:00:00.000Z ERROR a.b 2 mistakes: | - one | - two"
    try:
        raise ValueError("boom")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    lines = logs.LineFormatter().format(record).splitlines()
    assert lines[-1] == "    ValueError: boom"
    assert all(line.startswith("    ") for line in lines[1:])


RECORD = "2026-11-21T12:00:00.000Z"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["just a word"], None),
        (
            [f"{RECORD} ERROR aiokafka.conn Unable to connect", "    Traceback (most recent call last):", "    E: e"],
            None,
        ),
        ([f"{RECORD} ERROR meterstream.roles it broke", f"{RECORD} WARNING asyncio unclosed"], "it broke"),
        (
            [
                f"{RECORD} ERROR meterstream.roles rater ends with an error",
                "    Traceback (most recent call last):",
                '      File "a.py", line 1, in f',
                "    KeyError: 1",
                "    ",
                "    During handling of the above exception, another exception occurred:",
                "    ",
                "    Traceback (most recent call last):",
                '      File "a.py", line 2, in f',
                "    ValueError: boom",
                "    and its second line",
                f"{RECORD} ERROR asyncio Unclosed connection",
            ],
            "ValueError: boom",
        ),
        (["Traceback (most recent call last):", '  File "a.py"', "ImportError: no x", "noise"], "ImportError: no x"),
        ([f"{RECORD} ERROR meterstream {'x' * 999}"], "x" * 299 + "…"),
    ],
)
def test_the_final_error_of_a_log_is_the_roles_own(lines: list[str], expected: str | None) -> None:
    assert logs.final_error(lines) == expected


FAILING = """
import asyncio, sys
from aiokafka.errors import NodeNotReadyError
from meterstream.deploy import roles
async def failing(*_):
    raise {error}
roles.ROLES["rater"] = roles.Role(failing, ())
sys.exit(roles.main(["rater"]))
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("asyncio.CancelledError", "rater gave up what it was doing: its connections were closed under it"),
        ("NodeNotReadyError('node 1')", f"Kafka cannot be used: node 1: {BROKER_FIX}"),
        ("LookupError('ours')", "LookupError: ours"),
    ],
)
def test_a_roles_last_word_is_for_people(tmp_path: Path, error: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(error=error)],
        env=os.environ | {"METERSTREAM_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert logs.final_error(done.stderr.splitlines()) == said


def test_pauses_grow_to_a_bound_and_are_spread() -> None:
    restarts = supervisor.Restarts(first_s=1, longest_s=30)
    assert [restarts.pause_s(failures, 0.0) for failures in (1, 2, 3, 6, 7, 10_000)] == [0.5, 1, 2, 15, 15, 15]
    assert restarts.pause_s(1, 0.999) == pytest.approx(1, abs=0.01)


def test_a_role_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="there is no role nope; there are: rater"):
        supervisor.known(["rater", "nope"])
    assert supervisor.known(["rater", "rater"]) == ["rater"]
    assert "rater" in supervisor.known([])


def test_a_log_that_is_written_to_is_emptied_in_place(tmp_path: Path) -> None:
    path = tmp_path / "role.log"
    with path.open("a") as writer:
        writer.write("old\n")
        writer.flush()
        logs.cut(path, bytes_max=4)
        assert path.read_text() == "old\n"
        logs.cut(path, bytes_max=3)
        writer.write("new\n")
    assert path.read_text() == "new\n"
    assert (tmp_path / "role.log.1").read_text() == "old\n"


def test_logs_are_found_by_name_and_followed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make()
    assert stack_logs.find(tmp_path, None) == {}
    path = folder.log("rater")
    path.write_text("before\n")
    assert stack_logs.find(tmp_path, "rater") == {"rater": path}
    with pytest.raises(UsageError, match="no log 'nope'; there are: rater"):
        stack_logs.find(tmp_path, "nope")
    lines = stack_logs.follow({"rater": path})
    path.write_text("before\nfirst\nhal")
    assert next(lines) == ("rater", "first")
    with path.open("a") as file:
        file.write("f\n")
    assert next(lines) == ("rater", "half")
    path.write_text("new\n")
    assert next(lines) == ("rater", "new")


def test_logs_as_json_are_one_object_a_line_and_say_the_same_of_the_end() -> None:
    def logged(formatter: logging.Formatter) -> list[str]:
        lines = []
        for level, text in ((logging.INFO, "begins"), (logging.ERROR, '2 mistakes:\n - "one"\n - two')):
            lines += formatter.format(logging.LogRecord("meterstream.x", level, "f", 1, text, None, None)).splitlines()
        try:
            raise ValueError("no\nway")
        except ValueError:
            record = logging.LogRecord("meterstream.x", logging.ERROR, "f", 1, "ends", None, sys.exc_info())
        return lines + formatter.format(record).splitlines()

    told = logged(logs.JsonFormatter("rater"))
    assert len(told) == 3
    assert [json.loads(line)["role"] for line in told] == ["rater"] * 3
    assert json.loads(told[1])["message"] == '2 mistakes:\n - "one"\n - two'
    assert json.loads(told[2])["error"].startswith("Traceback")
    in_text = logged(logs.LineFormatter())
    assert logs.final_error(told) == logs.final_error(in_text) is not None
    assert logs.final_error(told[:2]) == logs.final_error(in_text[:2]) == '2 mistakes: | - "one" | - two'
    for line in ("", "{", "[]", '{"message": 5}', "plain"):
        assert logs.as_text(line) == [line]
