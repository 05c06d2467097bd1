"""Starting some servers of a folder together; leaves nothing behind when it fails."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from meterstream.deploy.stack import ports
from meterstream.deploy.stack.host import Host, Server, Steps
from meterstream.deploy.stack.state import Folder, State
from meterstream.schema.errors import StackError

STEP_S = 0.01
DONE = object()
SPACE_BYTES_MIN = 256 << 20


def bring_up(
    folder: Folder, servers: Sequence[Server], *, bind_to_parent: bool, meanwhile: Callable[[], None] | None = None
) -> State:
    """Starts those of `servers` that do not run, and returns the state once all of them answer. Blocks.

    `meanwhile` is called once, while they boot. Whatever ends it early, Ctrl-C and SIGTERM included, ends what it has
    started. Raises StackError, StackBusy.
    """
    if sys.platform != "linux":
        raise StackError(
            "the local stack needs Linux; elsewhere use containers, and name them in METERSTREAM_* settings"
        )
    with explained(folder.home), termination_raises():
        folder.make()
        with folder.locked("up"):
            known = folder.load() or State.new()
            host = Host(folder, known, bind_to_parent=bind_to_parent)
            try:
                _choose_ports(host, servers)
                folder.save(known)
                booting = [server.start(host) for server in servers]
                _step_all([*booting, *([_once(meanwhile)] if meanwhile else [])])
            except BaseException:
                host.abort()
                raise
            return known


def _choose_ports(host: Host, servers: Sequence[Server]) -> None:
    down = [server for server in servers if not host.is_running(server.name)]
    if not down:
        return
    free_bytes = shutil.disk_usage(host.folder.home).free
    if free_bytes < SPACE_BYTES_MIN:
        raise StackError(
            f"only {free_bytes >> 20} MB are free on the disk of {host.folder.home}, the servers want "
            f"{SPACE_BYTES_MIN >> 20} MB at least: free some space and try again"
        )
    names = [name for server in down for name in server.ports]
    kept = host.state.ports
    taken = [port for name, port in kept.items() if name not in names]
    host.state.ports = kept | ports.choose(names, kept, taken=taken)


def _once(work: Callable[[], None]) -> Steps:
    """Last in the row: by its turn the processes of the servers have been started."""
    work()
    yield


def _step_all(running: list[Steps]) -> None:
    """Runs all to their end, a piece of each in turn."""
    while running:
        running = [steps for steps in running if next(steps, DONE) is not DONE]
        if running:
            time.sleep(STEP_S)


@contextlib.contextmanager
def explained(home: Path) -> Iterator[None]:
    """An error of the operating system becomes a StackError that says where and what helps."""
    try:
        yield
    except OSError as error:
        where = error.filename or home
        fix = {
            errno.ENOSPC: ": the disk is full, free some space and try again",
            errno.EACCES: f": not allowed to user id {os.geteuid()}; check its owner, or choose "
            "another place with METERSTREAM_HOME (data) or METERSTREAM_CACHE (jars)",
            errno.ENOSYS: ": this kernel is too old, the local stack needs Linux 5.3",
            errno.EROFS: ": choose a folder that can be written with METERSTREAM_HOME",
        }.get(error.errno or 0, "")
        raise StackError(f"{where}: {error.strerror}{fix}") from error


@contextlib.contextmanager
def termination_raises() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit inside, so that cleaning up happens. Main thread only."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
