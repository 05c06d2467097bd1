"""How each role is: a small file that the role replaces about once a second.

    HOME/run/<role>.json   a `Report`

Whoever reads it does not need the role's answer: a role that hangs shows by its silence.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from meterstream.deploy.stack.process import ProcessId, identify, is_alive
from meterstream.deploy.stack.state import folder_id
from meterstream.schema.health import State

RUN_FOLDER: Final = "run"
SILENT_AFTER: Final = timedelta(seconds=10)
STARTING_SILENT_AFTER: Final = timedelta(seconds=90)
"""Of a role that starts: it says so once, and its group may wait for the sessions of members that were killed."""

Verdict = State | Literal["silent", "dead", "unreadable"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a role says of itself. Times are aware UTC; `lag_records`: None where it does not know.

    `folder` is where it was written: in a copy of the folder it is the original's. `failures`: how often in a row it
    has ended unasked before this life, the last time as `last_failure` says. `endpoint` is where the role answers
    over HTTP, as host:port (see `meterstream.deploy.running.endpoint`); None: nowhere.
    """

    role: str
    process: ProcessId
    folder: str
    started_at: datetime
    updated_at: datetime
    state: State
    reason: str | None = None
    lag_records: int | None = None
    detail: dict[str, Any] = {}
    failures: int = 0
    last_failure: str | None = None
    endpoint: str | None = None


class RoleHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A role as status shows it: `state` is the verdict; `report` is None where the file cannot be read.

    `age_s`: seconds since the report, None without one.
    """

    role: str
    state: Verdict
    report: Report | None
    age_s: float | None = None


class HealthFile:
    """The writing side, one for each role and process."""

    def __init__(
        self,
        home: Path,
        role: str,
        *,
        process: ProcessId | None = None,
        failures: int = 0,
        last_failure: str | None = None,
    ) -> None:
        """Makes the folder.

        Where somebody else writes for the role, `process` is the role's, and the rest says how it went so far; the role
        itself then takes that over.
        """
        folder = home / RUN_FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{role}.json"
        self._folder_id = folder_id(folder)
        self._role = role
        self._process = process or myself()
        self._started_at = datetime.now(UTC)
        self._failures, self._last_failure = failures, last_failure
        before = None if failures else _parsed(self._path)
        if before is not None and before.process == self._process:
            self._failures, self._last_failure = before.failures, before.last_failure
        self._endpoint: str | None = None
        self.last = self._made("starting")
        """What was written last; whole at any time, for other threads."""
        self.has_run = False
        """Whether it has ever been beyond `starting`."""

    def answers_at(self, endpoint: str | None) -> None:
        """From the next report on."""
        self._endpoint = endpoint

    def write(self, state: State, reason: str | None = None, lag_records: int | None = None, **detail: Any) -> None:
        """Replaces the file as a whole; does not wait for the disk. `detail`: whatever JSON can hold.

        A full disk is no reason to stop metering: where the file cannot be written the role falls silent.
        """
        report = self.last = self._made(state, reason, lag_records, detail)
        self.has_run = self.has_run or state in ("running", "degraded")
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            draft.write_bytes(msgspec.json.encode(report))
            draft.replace(self._path)
        except OSError:  # see above; whoever reads sees the age of the last report
            draft.unlink(missing_ok=True)

    def _made(
        self,
        state: State,
        reason: str | None = None,
        lag_records: int | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Report:
        return Report(
            role=self._role,
            process=self._process,
            folder=self._folder_id,
            started_at=self._started_at,
            updated_at=datetime.now(UTC),
            state=state,
            reason=reason,
            lag_records=lag_records,
            failures=self._failures,
            last_failure=self._last_failure,
            detail=detail or {},
            endpoint=self._endpoint,
        )


def myself() -> ProcessId:
    """This process."""
    found = identify(os.getpid())
    assert found is not None
    return found


def read_all(home: Path) -> list[RoleHealth]:
    """Every role that has ever run in this folder, by name. Does not block; raises nothing but OSError."""
    found = (_read(path) for path in sorted((home / RUN_FOLDER).glob("[!.]*.json")))
    return [health for health in found if health is not None]


def _read(path: Path) -> RoleHealth | None:
    """None: it was written in another folder, of which this one is a copy."""
    report = _parsed(path)
    if report is None:
        return RoleHealth(role=path.stem, state="unreadable", report=None)
    if report.folder != folder_id(path.parent):
        return None
    now = datetime.now(UTC)
    state = verdict(report, now=now, is_alive=is_alive(report.process))
    return RoleHealth(role=report.role, state=state, report=report, age_s=(now - report.updated_at).total_seconds())


def _parsed(path: Path) -> Report | None:
    """None: there is none, or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def is_silent(report: Report, *, now: datetime) -> bool:
    """Whether it has said nothing for longer than it should."""
    return now - report.updated_at > (STARTING_SILENT_AFTER if report.state == "starting" else SILENT_AFTER)


def verdict(report: Report, *, now: datetime, is_alive: bool) -> Verdict:
    """What to believe of a report: a role that is dead or silent is not what it said last."""
    if report.state == "stopped":
        return "stopped"
    if not is_alive:
        return "dead"
    if is_silent(report, now=now):
        return "silent"
    return report.state
