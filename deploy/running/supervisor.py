"""Keeps roles running: each in a process of its own, started again when it ends, drained when asked to stop.

One supervisor for each folder (`registration`). `start` and `stop` are for one in the background, `Supervisor` is the
thing itself. `python -m meterstream.deploy.running.supervisor HOME ROLE...` is what `start` starts.

    HOME/run/instance    by which name its roles go in their consumer groups
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Literal

from meterstream.deploy.running import logs, registration
from meterstream.deploy.running.discovery import Targets
from meterstream.deploy.running.health import RUN_FOLDER, HealthFile
from meterstream.deploy.running.registration import NAME
from meterstream.deploy.stack import process
from meterstream.deploy.stack.host import log_tail
from meterstream.deploy.stack.process import ProcessId
from meterstream.deploy.stack.state import Folder
from meterstream.schema.errors import MeterstreamError, StackError, UsageError
from meterstream.schema.settings import Settings

log = logging.getLogger("meterstream.supervisor")

EXIT_STOPPED: Final = 70
EXIT_CONFIG: Final = 78
FINAL_EXITS: Final = {
    EXIT_STOPPED: "stopped itself, a person has to look",
    EXIT_CONFIG: "cannot run with these settings",
}

TICK_S: Final = 1.0
INSTANCE_BYTES: Final = 8
FINAL_LINES: Final = 1000
FINAL_BYTES: Final = 256 << 10
START_LIMIT_S: Final = 20.0
START_POLL_S: Final = 0.02
KILL_LIMIT_S: Final = 5.0
STOP_MARGIN_S: Final = 10.0


@dataclass(frozen=True)
class Restarts:
    """When an ended role starts again. Times in seconds."""

    first_s: float = 0.5
    longest_s: float = 30.0
    healthy_s: float = 60.0
    """A role that ran this long starts the count anew."""

    def pause_s(self, failures: int, share: float) -> float:
        """Before the next start, after so many failures in a row; `share` in [0, 1) spreads it over its upper half."""
        doubled = self.first_s * 2.0 ** min(failures - 1, 32)
        return min(self.longest_s, doubled) * (0.5 + 0.5 * share)


@dataclass
class _Role:
    """One role and how it goes. Either it runs (`process`), or waits (`due_at`), or is done with (`exit_code`)."""

    name: str
    command: Sequence[str]
    process: ProcessId | None = None
    pidfd: int = -1
    started_at: float = 0.0
    log_start: int = 0
    failures: int = 0
    due_at: float | None = 0.0
    exit_code: int | None = None
    reason: str = ""


@dataclass
class Supervisor:
    """Runs `commands` (role -> command) until it is told to stop. Logs go to HOME/logs/<role>.log."""

    home: Path
    commands: Mapping[str, Sequence[str]]
    drain_timeout_s: float
    restarts: Restarts = Restarts()
    instance: str = ""
    """Where it is given, each role goes by this name and its own in its consumer group, over every restart."""
    _stops: int = field(default=0, init=False)

    def run(self) -> int:
        """Blocks; call it from the main thread. SIGTERM or SIGINT drains the roles, a second one kills them.

        Returns 0 where all have drained, 1 where some had to be killed, and the exit code of the first role
        where none is left that may be started again. Raises UsageError where roles run already.
        """
        self._folder = Folder(self.home)
        self._folder.make()
        self._roles = [_Role(name, command) for name, command in self.commands.items()]
        self._targets = Targets(self.home)
        names = ", ".join(self.commands)
        with registration.held(self.home, list(self.commands), self.drain_timeout_s), self._signals() as wakeup:
            log.info("supervising %s; their logs are in %s", names, self._folder.logs)
            try:
                while not self._stops:
                    self._start_due()
                    if all(role.exit_code is not None for role in self._roles):
                        log.error("no role is left to run")
                        return next(role.exit_code for role in self._roles if role.exit_code is not None)
                    self._wait(wakeup, self._patience_s())
                    self._collect()
                    self._keep_logs_small()
                    self._tell_prometheus()
                code = self._drain(wakeup)
                self._tell_prometheus(is_over=True)
            finally:
                self._kill()
            registration.withdraw(self.home)
            return code

    # ------------------------------------------------------------------ starting and ending

    def _start_due(self) -> None:
        now = time.monotonic()
        for role in self._roles:
            if role.due_at is not None and role.due_at <= now:
                self._start(role)
            elif role.due_at is not None:
                times = "once" if role.failures == 1 else f"{role.failures} times in a row"
                self._tell(role, "failed", f"{times}, next start in {role.due_at - now:.0f} s: {role.reason}")

    def _start(self, role: _Role) -> None:
        path = self._folder.log(role.name)
        role.started_at = time.monotonic()
        role.log_start = path.stat().st_size if path.exists() else 0
        try:
            held = process.spawn(
                role.command,
                cwd=Path.cwd(),
                log=path,
                env={**os.environ, "METERSTREAM_HOME": str(self._folder.home), **self._name(role)},
                death_signal=signal.SIGTERM,  # should we be killed, the roles drain
            )
        except OSError as error:  # a full disk or too many processes: that may pass
            self._start_later(role, f"could not be started: {error}")
            return
        role.process, role.due_at = held.process, None
        role.pidfd = os.pidfd_open(held.process.pid)
        said = HealthFile(
            self.home, role.name, process=held.process, failures=role.failures, last_failure=role.reason or None
        )
        said.write("starting")
        held.release()
        log.info("%s starts, process %d", role.name, held.process.pid)

    def _name(self, role: _Role) -> dict[str, str]:
        return {"METERSTREAM_INSTANCE": f"{self.instance}-{role.name}"} if self.instance else {}

    def _collect(self) -> None:
        for role in self._roles:
            if role.process is not None and not process.is_alive(role.process):
                self._ended(role)

    def _ended(self, role: _Role) -> None:
        code = self._clear(role)
        said = self._last_words(role, code)
        if code in FINAL_EXITS:
            role.exit_code = code
            role.reason = f"{FINAL_EXITS[code]} (exit {code}){said}"
            self._tell(role, "stopped", role.reason)
            log.error("%s %s", role.name, role.reason)
            return
        self._start_later(role, f"ended {_how(code)}{said}")

    def _last_words(self, role: _Role, code: int | None) -> str:
        """': ' and its own final error; empty where it had none: a signal lets nobody speak."""
        if not code or code < 0:
            return ""
        lines = log_tail(self._folder.log(role.name), role.log_start, lines=FINAL_LINES, bytes_max=FINAL_BYTES)
        error = logs.final_error(lines)
        return f": {error}" if error else ""

    def _start_later(self, role: _Role, reason: str) -> None:
        now = time.monotonic()
        role.failures = 1 if now - role.started_at >= self.restarts.healthy_s else role.failures + 1
        pause_s = self.restarts.pause_s(role.failures, random.random())  # noqa: S311 - spreads, keeps no secret
        role.due_at = now + pause_s
        role.reason = reason
        log.warning("%s %s (%d in a row); starts again in %.1f s", role.name, reason, role.failures, pause_s)

    def _clear(self, role: _Role) -> int | None:
        """Collects an ended role; its exit code."""
        assert role.process is not None
        code = process.exit_code(role.process)
        os.close(role.pidfd)
        role.process, role.pidfd = None, -1
        return code

    def _tell(self, role: _Role, state: Literal["failed", "stopped"], reason: str) -> None:
        """Speaks for a role that does not run, once a tick: silence would mean that we are gone."""
        said = HealthFile(self.home, role.name, failures=role.failures, last_failure=role.reason or None)
        said.write(state, reason)

    def _tell_prometheus(self, *, is_over: bool = False) -> None:
        with contextlib.suppress(OSError):  # a full disk: who is away is told by the old list, too
            if is_over:
                self._targets.withdraw()
            else:
                self._targets.refresh(self.commands)

    # ------------------------------------------------------------------ the end

    def _drain(self, wakeup: int) -> int:
        """Asks all roles to finish; 0, or 1 where some had to be killed."""
        running = [role for role in self._roles if role.process is not None]
        log.info("draining %s", ", ".join(role.name for role in running) or "nothing")
        for role in running:
            assert role.process is not None
            process.send(role.process, signal.SIGTERM)
        deadline = time.monotonic() + self.drain_timeout_s
        while running and self._stops < 2 and time.monotonic() < deadline:
            self._wait(wakeup, min(TICK_S, deadline - time.monotonic()))
            for role in running:
                if role.process is not None and not process.is_alive(role.process):
                    code = self._clear(role)
                    log.info("%s ended %s", role.name, _how(code))
                    if code == -signal.SIGTERM:
                        self._tell(role, "stopped", "stopped before it was ready")
                    elif code:  # one that drained has said so itself
                        why = f"ended {_how(code)} while it was to drain{self._last_words(role, code)}"
                        self._tell(role, "stopped", why)
            running = [role for role in running if role.process is not None]
        return 1 if running else 0

    def _kill(self) -> None:
        """Whatever still runs."""
        for role in self._roles:
            if role.process is not None:
                process.kill_group(role.process, KILL_LIMIT_S)
                self._clear(role)
                role.reason = "killed before it had drained"
                self._tell(role, "stopped", role.reason)
                log.warning("%s %s", role.name, role.reason)
            elif role.due_at is not None:
                self._tell(role, "stopped", role.reason or "stopped before it started")

    # ------------------------------------------------------------------ waiting

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """SIGTERM and SIGINT count in `_stops` and end a wait; yields what to wait for."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stops += 1

        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            yield reader
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
            os.close(reader)
            os.close(writer)

    def _patience_s(self) -> float:
        due = [role.due_at for role in self._roles if role.due_at is not None]
        return min([TICK_S, *(at - time.monotonic() for at in due)])

    def _wait(self, wakeup: int, timeout_s: float) -> None:
        """Until a role ends, a signal comes, or the time is over."""
        poller = select.poll()
        poller.register(wakeup, select.POLLIN)
        for role in self._roles:
            if role.process is not None:
                poller.register(role.pidfd, select.POLLIN)
        poller.poll(max(0.0, timeout_s) * 1000)  # a negative one would wait for ever
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 4096)

    def _keep_logs_small(self) -> None:
        for name in (*self.commands, NAME):
            logs.cut(self._folder.log(name))


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"by signal {-code}"


def start(home: Path, roles: Sequence[str], *, bind_to_parent: bool = False) -> None:
    """Supervises `roles` in the background. Blocks until it has begun; not until the roles are running.

    Does nothing where these roles are supervised already. With `bind_to_parent` they are stopped when the
    calling thread ends, however it ends. Raises UsageError where other roles run in this folder, StackError
    where the supervisor does not start.
    """
    found = registration.registered(home)
    if found is not None:
        if set(roles) <= set(found.roles):
            return
        raise UsageError(registration.running_already(home))
    folder = Folder(home)
    folder.make()
    path = folder.log(NAME)
    log_start = path.stat().st_size if path.exists() else 0
    held = process.spawn(
        [sys.executable, "-P", "-m", __name__, str(folder.home), *roles],
        cwd=Path.cwd(),
        log=path,
        env=os.environ,
        death_signal=signal.SIGTERM if bind_to_parent else None,
    )
    held.release()
    try:
        _await_registration(folder.home, held.process, path, log_start)
    except BaseException:  # Ctrl-C: nothing may stay behind
        process.send(held.process, signal.SIGTERM)
        raise


def _await_registration(home: Path, started: ProcessId, path: Path, log_start: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while (found := registration.registered(home)) is None or found.process != started:
        if process.wait(started, START_POLL_S) or time.monotonic() > deadline:
            tail = "\n".join(log_tail(path, log_start))
            raise StackError(f"the roles' supervisor did not start:\n{tail}\n({path})")


def stop(home: Path) -> list[str]:
    """Drains and stops the roles of this folder; their names. Blocks as long as they may drain, and a little."""
    found = registration.registered(home)
    if found is None:
        if registration.wanted(home) is not None:  # of one that died
            registration.withdraw(home)
        return []
    process.send(found.process, signal.SIGTERM)
    if not process.wait(found.process, found.drain_timeout_s + KILL_LIMIT_S + STOP_MARGIN_S):
        process.kill_group(found.process, KILL_LIMIT_S)  # its roles end with it
        registration.withdraw(home)
    return found.roles


def run(home: Path, roles: Sequence[str], settings: Settings) -> int:
    """Supervises `roles` in this process; see `Supervisor.run`. Raises UsageError for a role that there is not."""
    commands = {role: [sys.executable, "-P", "-m", "meterstream.deploy.roles", role] for role in known(roles)}
    name = settings.instance or instance_of(home)
    return Supervisor(home, commands, settings.drain_timeout_s, instance=name).run()


def instance_of(home: Path) -> str:
    """The name by which a folder's processes go in their groups: made up once, kept in HOME/run/instance."""
    path = home / RUN_FOLDER / "instance"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}")
        draft.write_text(secrets.token_hex(INSTANCE_BYTES), "ascii")
        draft.replace(path)
    return path.read_text("ascii")


def known(roles: Sequence[str]) -> list[str]:
    """These roles, each once; all there are where none is named. Raises UsageError for one that there is not."""
    from meterstream.deploy.roles import ROLES

    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise UsageError(f"there is no role {', '.join(unknown)}; there are: {', '.join(ROLES)}")
    return list(dict.fromkeys(roles)) or list(ROLES)


def main(arguments: Sequence[str]) -> int:
    """The background process: HOME ROLE..."""
    logs.configure(NAME)
    try:
        return run(Path(arguments[0]), arguments[1:], Settings.load())
    except MeterstreamError as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
