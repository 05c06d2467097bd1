"""Which roles should run in a folder, and who sees to it: one supervisor, as long as it lives.

HOME/run/supervisor.reg    removed when the roles are asked to stop: what is left behind should run, and does not
HOME/run/.supervisor.lock  held by the supervisor
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from meterstream.deploy.running.health import RUN_FOLDER, myself
from meterstream.deploy.stack import process
from meterstream.deploy.stack.process import ProcessId
from meterstream.deploy.stack.state import folder_id
from meterstream.schema.errors import UsageError

NAME: Final = "supervisor"
"""Of the process, its log and its files."""


class Registration(msgspec.Struct, frozen=True):
    """Who supervises a folder's roles. `folder`: where; in a copy of the folder this is the original's."""

    process: ProcessId
    folder: str
    roles: list[str]
    drain_timeout_s: float


@contextlib.contextmanager
def held(home: Path, roles: list[str], drain_timeout_s: float) -> Iterator[None]:
    """This process supervises these roles. The file stays where that ends without `withdraw`.

    Raises UsageError where another process does.
    """
    folder = home / RUN_FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / f".{NAME}.lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(running_already(home)) from None
        path = _file(home)
        draft = path.with_name(f".{path.name}")
        draft.write_bytes(msgspec.json.encode(Registration(myself(), folder_id(folder), roles, drain_timeout_s)))
        draft.replace(path)
        yield


def withdraw(home: Path) -> None:
    """From now on no role is to run here. Not called after an error: then they should run, and do not."""
    _file(home).unlink(missing_ok=True)


def _file(home: Path) -> Path:
    return home / RUN_FOLDER / f"{NAME}.reg"


def running_already(home: Path) -> str:
    """For people: who supervises, and what to do."""
    found = registered(home)
    who = f"{', '.join(found.roles)} (process {found.process.pid})" if found else "roles"
    return f"{who} run already in {home}: `meterstream down` stops them, METERSTREAM_HOME names another folder"


def wanted(home: Path) -> Registration | None:
    """Which roles should run in this folder, and who sees to it, alive or not; None: nobody was asked to."""
    try:
        found = msgspec.json.decode(_file(home).read_bytes(), type=Registration)
        return found if found.folder == folder_id(home / RUN_FOLDER) else None
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def registered(home: Path) -> Registration | None:
    """Who supervises this folder's roles now; None: nobody."""
    found = wanted(home)
    return found if found and process.is_alive(found.process) else None


def is_running(home: Path) -> bool:
    """Whether roles of this folder are supervised, in the background or by `meterstream run`."""
    return registered(home) is not None
