"""Processes that outlive the command which started them: start, recognise, signal, wait.

A process is known by its id, its start time and the boot it belongs to, so a recycled id is never
taken for one of ours. Signals go through a pidfd that was opened before the check.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

LAUNCH = Path(__file__).with_name("launch.py")
GROUP_POLL_S = 0.01

# Fields of /proc/PID/stat, counted from the one after the command.
STATE, GROUP, THREADS, STARTED = 0, 2, 17, 19


class ProcessId(msgspec.Struct, frozen=True):
    """Which process, beyond doubt: `started_ticks` is the kernel's start time (clock ticks since boot)."""

    pid: int
    started_ticks: int
    boot_id: str


@dataclass(frozen=True)
class Held:
    """A started process that waits for `release()` before it runs its command."""

    process: ProcessId
    gate: int

    def release(self) -> None:
        """Lets the command start. Call it once the process has been written down."""
        with contextlib.suppress(BrokenPipeError):  # it is dead already: whoever waits for it finds out
            os.write(self.gate, b"\n")
        os.close(self.gate)

    def drop(self) -> None:
        """Ends the process without starting the command."""
        os.close(self.gate)


def spawn(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    log: Path,
    env: Mapping[str, str],
    input_file: Path | None = None,
    death_signal: signal.Signals | None = None,
    user: str | int | None = None,
    nice: int = 0,
) -> Held:
    """Starts `command` in a session of its own, held at the gate; output is appended to `log` (0600).

    `death_signal` is sent to it when the calling *thread* ends; None lets it live on. `user` is None,
    "namespace" or a uid (root only). Raises OSError where the log or a process cannot be made.
    """
    plan = {
        "cwd": str(cwd),
        "input": input_file and str(input_file),
        "death_signal": death_signal,
        "user": user,
        "nice": nice,
    }
    argv = [sys.executable, "-I", "-S", str(LAUNCH), json.dumps(plan), *map(str, command)]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        ours_in, gate = os.pipe()
        try:
            pid = os.posix_spawn(
                sys.executable,
                argv,
                dict(env),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, ours_in, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsigmask=[],
            )
        except BaseException:
            os.close(gate)
            raise
        finally:
            os.close(ours_in)
    finally:
        os.close(output)
    process = identify(pid)
    if process is None:  # cannot be: it is our child and nobody has waited for it
        os.close(gate)
        raise ProcessLookupError(f"process {pid} is gone before it started")
    return Held(process, gate)


def identify(pid: int) -> ProcessId | None:
    """Who has this id now; None where nobody has, or only a dead child that was not collected yet."""
    fields = _stat(pid)
    return ProcessId(pid, int(fields[STARTED]), boot_id()) if fields else None


def boot_id() -> str:
    """Names this boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def is_alive(process: ProcessId) -> bool:
    """Whether exactly this process still runs."""
    return identify(process.pid) == process


@contextlib.contextmanager
def _handle(process: ProcessId) -> Iterator[int | None]:
    """A pidfd of exactly this process, or None: it is gone, or its id belongs to somebody else."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle if is_alive(process) else None
    finally:
        os.close(handle)


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Signals exactly this process. False: it is gone, nobody was signalled."""
    with _handle(process) as handle:
        if handle is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
            return True
        return False


def wait(process: ProcessId, timeout_s: float) -> bool:
    """Blocks until it has ended, at most `timeout_s`; whether it has. Collects it where it is our child."""
    with _handle(process) as handle:
        if handle is not None:
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            if not poller.poll(timeout_s * 1000):
                return False
    exit_code(process)
    return True


def exit_code(process: ProcessId) -> int | None:
    """Of a child of ours that has ended: its exit code, negative for a signal. None: it runs, or is not ours."""
    try:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None


def kill_group(process: ProcessId, timeout_s: float) -> None:
    """Kills a process that `spawn` started with everything that it started in its session, and waits for them."""
    if not is_alive(process):  # only a leader that lives keeps the id of its group from being used again
        return
    with contextlib.suppress(ProcessLookupError):  # it was made this instant and has no group of its own yet
        os.killpg(process.pid, signal.SIGKILL)
    send(process, signal.SIGKILL)
    wait(process, timeout_s)
    deadline = time.monotonic() + timeout_s
    while _has_members(process.pid) and time.monotonic() < deadline:
        time.sleep(GROUP_POLL_S)


def _has_members(group: int) -> bool:
    """Whether a live process belongs to the group; one that is dead and uncollected may stay for ever."""
    fields = (_stat(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return any(int(found[GROUP]) == group for found in fields if found)


def _stat(pid: int) -> list[bytes] | None:
    """The kernel's line from the state on; None where there is no such process, or a dead one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    is_dead = fields[STATE] in (b"Z", b"X") and int(fields[THREADS]) <= 1  # the first thread may go before others
    return None if is_dead else fields


def working_in(folder: Path) -> list[int]:
    """Ids of the processes whose working directory is `folder` or below, as far as we may see them."""
    real = os.path.realpath(folder)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                cwd = os.readlink(f"/proc/{entry}/cwd")
                if cwd == real or cwd.startswith(real + os.sep):
                    found.append(int(entry))
    return sorted(found)
