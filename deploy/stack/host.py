"""What a server needs while it starts: processes that are written down, helpers, errors with the log's end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from meterstream.deploy.stack import process
from meterstream.deploy.stack.process import ProcessId
from meterstream.deploy.stack.state import Folder, State
from meterstream.schema.errors import StackError

HERE = "/proc/self/cwd"
"""A server's own folder, for programs that take paths of at most 1023 bytes."""

START_LIMIT_S = 90.0
ABORT_LIMIT_S = 5.0
ORPHANS_LIMIT_S = 10.0
TAIL_LINES = 12
TAIL_BYTES = 4000
LOG_BYTES_MAX = 8 << 20

Steps = Generator[None, None, None]
"""Work in small pieces: at each `yield` the others may do a piece of theirs."""

HINTS = (
    ("no space left on device", "the disk is full: free some space and run `meterstream up` again"),
    ("address already in use", "another process took the port meanwhile: run `meterstream up` again"),
    ("could not bind", "another process took the port meanwhile: run `meterstream up` again"),
    ("user namespace", "this system forbids user namespaces: run meterstream as a user with a name, and not as root"),
    ("permission denied", "the user who runs this may not use that file or folder: check owner and mode"),
    ("outofmemoryerror", "too little memory: the broker wants 512 MB of heap"),
)


class Server(Protocol):
    """One of the three servers."""

    @property
    def name(self) -> str:
        """Also of its folder and log."""
        ...

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of its ports; the first is the one that clients use."""
        ...

    @property
    def stop_signal(self) -> signal.Signals:
        """Ends it in order."""
        ...

    @property
    def abort_signal(self) -> signal.Signals:
        """Ends it at once; nothing it has acknowledged is lost."""
        ...

    def start(self, host: Host) -> Steps:
        """Until it answers. Where it runs already this only checks. Raises StackError."""
        ...


class Host:
    """The servers of one folder while `up` works on it; the folder's lock is held."""

    def __init__(self, folder: Folder, state: State, *, bind_to_parent: bool) -> None:
        self.folder = folder
        self.state = state
        self._bind_to_parent = bind_to_parent
        self._started: dict[str, Server] = {}
        self._helpers: list[ProcessId] = []
        self._log_starts: dict[Path, int] = {}

    def is_running(self, name: str) -> bool:
        """Whether the recorded process lives."""
        recorded = self.state.processes.get(name)
        return recorded is not None and process.is_alive(recorded)

    def serve(self, server: Server, command: Sequence[str | Path], *, cwd: Path, user: str | int | None = None) -> None:
        """Starts a server that outlives this command (unless bound to the parent), written down first."""
        with signals_held():
            held = process.spawn(
                command,
                cwd=cwd,
                log=self._log(server.name),
                env=environment(),
                death_signal=server.abort_signal if self._bind_to_parent else None,
                user=user,
            )
            try:
                self.state.processes[server.name] = held.process
                self.folder.save(self.state)
            except BaseException:
                held.drop()
                raise
            self._started[server.name] = server
            held.release()

    def await_alone(self, folder: Path) -> Steps:
        """Until nobody works in a server's folder: sessions of a killed server take a moment to notice.

        Every server works in its own folder. Raises StackError naming those who stay: they would be
        servers that the state file does not know.
        """
        deadline = time.monotonic() + ORPHANS_LIMIT_S
        while left := process.working_in(folder):
            if time.monotonic() > deadline:
                pids = ", ".join(map(str, left))
                raise StackError(f"other processes work in {folder}: {pids}. End them, then try again")
            yield

    def await_ready(self, server: Server, is_ready: Iterator[bool]) -> Steps:
        """Until `is_ready` yields true. Raises StackError where the server ends or does not answer in time."""
        deadline = time.monotonic() + START_LIMIT_S
        while not next(is_ready):
            if not self.is_running(server.name):
                raise StackError(self._report(server.name, "ended while it started"))
            if time.monotonic() > deadline:
                raise StackError(self._report(server.name, f"does not answer after {START_LIMIT_S:.0f} s"))
            yield

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        cwd: Path,
        env: dict[str, str] | None = None,
        input_file: Path | None = None,
        user: str | int | None = None,
        limit_s: float = START_LIMIT_S,
    ) -> Steps:
        """A helper to its end, into the log of `name`. It never outlives us. Raises StackError unless it succeeds."""
        with signals_held():
            held = process.spawn(
                command,
                cwd=cwd,
                log=self._log(name),
                env=env or environment(),
                input_file=input_file,
                death_signal=signal.SIGKILL,
                user=user,
            )
            self._helpers.append(held.process)
            held.release()
        what = Path(command[0]).name
        deadline = time.monotonic() + limit_s
        while process.is_alive(held.process):
            if time.monotonic() > deadline:
                raise StackError(self._report(name, f"was not prepared in {limit_s:.0f} s by `{what}`"))
            yield
        if process.exit_code(held.process) != 0:
            raise StackError(self._report(name, f"could not be prepared by `{what}`"))

    def abort(self) -> None:
        """Ends what this command has started, and nothing else; blocks a few seconds at most."""
        with signals_held():
            for helper in self._helpers:
                process.kill_group(helper, ABORT_LIMIT_S)
            for name, server in self._started.items():
                process.send(self.state.processes[name], server.abort_signal)
            for name in self._started:
                running = self.state.processes.pop(name)
                if not process.wait(running, ABORT_LIMIT_S):
                    process.kill_group(running, ABORT_LIMIT_S)
            with contextlib.suppress(OSError):  # a full disk: dead processes stay written down, which is harmless
                self.folder.save(self.state)

    def _log(self, name: str) -> Path:
        """The log to append to; what was said before now is not shown in an error."""
        log = self.folder.log(name)
        if log not in self._log_starts:
            keep_small(log)
            self._log_starts[log] = log.stat().st_size if log.exists() else 0
        return log

    def _report(self, name: str, what: str) -> str:
        log = self.folder.log(name)
        tail = "\n".join(f"  {line}" for line in log_tail(log, self._log_starts.get(log, 0)))
        said = f" Its log ends with:\n{tail}" if tail else " It wrote nothing into its log."
        hint = next((fix for sign, fix in HINTS if sign in tail.lower()), None)
        fix = f"\nLikely: {hint}." if hint else ""
        return f"{name} {what}.{said}\n({log}){fix}"


def environment() -> dict[str, str]:
    """Of servers and helpers: little of ours, so that nothing in the user's shell changes a server.

    The locale makes the JVM read file names as UTF-8.
    """
    passed = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**passed, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def keep_small(log: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Sets a log that has grown aside as `.1`; the one before is dropped."""
    if log.exists() and log.stat().st_size > bytes_max:
        log.replace(log.with_name(log.name + ".1"))


def log_tail(log: Path, start: int = 0, *, lines: int = TAIL_LINES, bytes_max: int = TAIL_BYTES) -> list[str]:
    """The last lines after position `start`, out of at most `bytes_max`; none where there is no log."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= end else 0, end - bytes_max))  # it may have been emptied meanwhile
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:] if lines else []


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
