"""What a folder knows of its servers: ports, passwords, processes; and the lock of the folder.

HOME/state.json     this, mode 0600, replaced as a whole
HOME/.lock          held while a command changes something
HOME/pgpass         for psql, mode 0600
HOME/logs/          one log a server or role
HOME/kafka|postgres|valkey/   data
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import msgspec

from meterstream.deploy.stack.addresses import Addresses
from meterstream.deploy.stack.ports import HOST
from meterstream.deploy.stack.process import ProcessId, is_alive, working_in
from meterstream.schema.errors import StackBusy, StackError

SERVERS = ("kafka", "postgres", "valkey")
SUPERUSER = "postgres"
VALKEY_USER = "valkey"  # under this name its password is kept; Valkey itself has no users here

LOCK_WAIT_S = 5.0
LOCK_POLL_S = 0.05
PRIVATE = 0o700


class State(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The content of the state file. `processes` holds what was started and not stopped by us.

    `folder` is where they were started: in a copy of the folder they are the original's.
    """

    version: int = 1
    folder: str = ""
    cluster_id: str
    ports: dict[str, int] = {}
    passwords: dict[str, str]
    processes: dict[str, ProcessId] = {}

    @classmethod
    def new(cls) -> State:
        """A folder's first state, with passwords made up now."""
        return cls(
            cluster_id=urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("="),
            passwords={SUPERUSER: new_password(), VALKEY_USER: new_password()},
        )

    def running(self) -> dict[str, ProcessId]:
        """Of the recorded processes those that live."""
        return {name: process for name, process in self.processes.items() if is_alive(process)}

    def addresses(self) -> Addresses:
        """Built from ports and passwords; says nothing of who runs."""
        return Addresses(
            kafka_bootstrap=f"{HOST}:{self.ports['kafka']}",
            postgres_host=HOST,
            postgres_port=self.ports["postgres"],
            postgres_superuser=SUPERUSER,
            postgres_password=self.passwords[SUPERUSER],
            valkey_url=f"redis://:{self.passwords[VALKEY_USER]}@{HOST}:{self.ports['valkey']}/0",
        )

    def pgpass(self) -> str:
        """The lines of a libpq password file for every Postgres user that we know."""
        port = self.ports.get("postgres", "*")
        users = (user for user in self.passwords if user != VALKEY_USER)
        return "".join(f"{HOST}:{port}:*:{user}:{self.passwords[user]}\n" for user in users)


def new_password() -> str:
    """URL-safe, so it also needs no quoting in a password file."""
    return secrets.token_urlsafe(24)


def folder_id(folder: Path) -> str:
    """Names this very folder: moving keeps it, a copy has another. Raises OSError where there is none."""
    found = folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


class Folder:
    """The folder of one local stack; the path need not exist yet."""

    def __init__(self, home: Path) -> None:
        self.home = Path(os.path.abspath(home))
        self.state_file = self.home / "state.json"
        self.lock_file = self.home / ".lock"
        self.pgpass_file = self.home / "pgpass"
        self.logs = self.home / "logs"

    def log(self, name: str) -> Path:
        """The log of a server or role."""
        return self.logs / f"{name}.log"

    def data(self, server: str) -> Path:
        """Everything of one server."""
        return self.home / server

    def make(self) -> None:
        """Makes the folder, private and unseen by git. Raises StackError where it cannot be."""
        if self.home.exists() and not self.home.is_dir():
            raise StackError(f"{self.home} is a file; the stack needs a folder: set METERSTREAM_HOME")
        if not self.home.exists():
            self.home.mkdir(mode=PRIVATE, parents=True)
            (self.home / ".gitignore").write_text("*\n", encoding="ascii")
        self.logs.mkdir(mode=PRIVATE, exist_ok=True)

    @contextlib.contextmanager
    def locked(self, what: str, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
        """Holds the folder's lock. Waits at most `wait_s`, then raises StackBusy saying who has it."""
        with open(os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as lock:
            deadline = time.monotonic() + wait_s
            while not _try_lock(lock.fileno()):
                if time.monotonic() >= deadline:
                    lock.seek(0)
                    holder = lock.read(100).strip() or "another command"
                    raise StackBusy(f"{self.home} is in use: {holder}. Try again when it is done")
                time.sleep(LOCK_POLL_S)
            lock.truncate(0)
            lock.write(f"`{what}` of process {os.getpid()}")
            lock.flush()
            yield

    def load(self) -> State | None:
        """None: nothing was ever started here. Raises StackError where the file is damaged or lost.

        In a copy of a folder the processes are left out: they belong to the original.
        """
        try:
            content = self.state_file.read_bytes()
        except FileNotFoundError:
            kept = [name for name in SERVERS if self.data(name).exists()]
            if kept:
                raise self._unusable(f"is missing, but there is data of {', '.join(kept)}") from None
            return None
        try:
            state = msgspec.json.decode(content, type=State)
            state.addresses()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._unusable(f"is damaged ({error})") from error
        except KeyError as error:
            if state.ports:  # without any port `up` ended before it had chosen them
                raise self._unusable(f"is damaged (no {error})") from error
        if state.version != 1:
            raise self._unusable(f"has version {state.version}, this meterstream knows version 1")
        if state.folder and state.folder != folder_id(self.home):
            state.processes.clear()
        return state

    def save(self, state: State) -> None:
        """Replaces state and password file, each as a whole."""
        state.folder = folder_id(self.home)
        _replace(self.state_file, msgspec.json.format(msgspec.json.encode(state), indent=2))
        _replace(self.pgpass_file, state.pgpass().encode("ascii"))

    def _unusable(self, what: str) -> StackError:
        pids = [pid for server in SERVERS for pid in working_in(self.data(server))]
        still = f"Processes that still run on its data: {', '.join(map(str, pids))}; end them first. " if pids else ""
        return StackError(
            f"{self.state_file} {what}. It holds the ports and passwords of this stack. {still}"
            f"Put the file back, or give up the data: remove the folder {self.home}"
        )


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, content: bytes) -> None:
    """Atomic, mode 0600, on the disk before the old one goes."""
    draft = path.with_name(path.name + ".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
