"""CPU time and memory of processes, from /proc. CPU time is user + system, in seconds; never wall time."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_BACKGROUND: Final = (
    "checkpointer",
    "background writer",
    "walwriter",
    "autovacuum",
    "logical replication launcher",
    "io worker",
    "archiver",
    "startup",
)


class _Stat(NamedTuple):
    parent: int
    own_s: float
    children_s: float
    """Of its children that have ended and were collected."""


@dataclass(frozen=True)
class PostgresCpu:
    """Of all processes of one server. Take two and subtract with `since`."""

    backends: dict[int, float]
    """Process id of a client's backend -> seconds."""
    background_s: float
    """Checkpointer, writers, autovacuum, the postmaster, and backends that have ended."""

    def backends_since(self, before: PostgresCpu, *, but: Collection[int]) -> float:
        """Seconds of the clients' backends, those in `but` (the benchmark's own) left out."""
        return sum(seconds - before.backends.get(pid, 0.0) for pid, seconds in self.backends.items() if pid not in but)

    def background_since(self, before: PostgresCpu, *, but: Collection[int]) -> float:
        """Seconds of everything else. A backend that ended in between is taken off where it came in."""
        ended = sum(seconds for pid, seconds in before.backends.items() if pid not in self.backends and pid not in but)
        return max(0.0, self.background_s - before.background_s - ended)


def cpu_seconds(pid: int) -> float:
    """Of one process with all its threads, without its children. Raises ProcessLookupError when it is gone."""
    return _stat(pid).own_s


def rss_bytes(pid: int) -> int:
    """Resident memory of one process now. Raises ProcessLookupError when it is gone."""
    try:
        status = Path(f"/proc/{pid}/statm").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rss_peak_bytes(pid: int) -> int:
    """The most memory that one process has had resident since it began. Raises ProcessLookupError when it has ended.

    Not `wait4`'s: that begins with what the process held from which it was started.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    for line in status.splitlines():
        name, _, kilobytes = line.partition(":")
        if name == "VmHWM":
            return int(kilobytes.split()[0]) << 10
    raise ProcessLookupError(f"process {pid} has ended")  # and was not waited for: it has no memory


def queued_seconds(pid: int) -> float:
    """For how long the main thread of a process has been ready to run, and another had the processor.

    Raises ProcessLookupError when it is gone. 0 where the kernel does not count it.
    """
    path = Path(f"/proc/{pid}/schedstat")
    try:
        return int(path.read_text().split()[1]) / 1e9
    except FileNotFoundError:
        if not path.parent.exists():
            raise ProcessLookupError(f"process {pid} is gone") from None
        return 0.0


def postgres_cpu(postmaster: int) -> PostgresCpu:
    """Of the server whose main process this is. Raises ProcessLookupError when it is gone."""
    main = _stat(postmaster)
    backends: dict[int, float] = {}
    background = main.own_s + main.children_s
    for pid, stat in _children(postmaster):
        if _is_backend(pid):
            backends[pid] = stat.own_s
        else:
            background += stat.own_s
    return PostgresCpu(backends, background)


def _children(parent: int) -> Iterator[tuple[int, _Stat]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = _stat(int(name))
            except ProcessLookupError:
                continue  # ended since it was listed
            if stat.parent == parent:
                yield int(name), stat


def _is_backend(pid: int) -> bool:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not title.removeprefix("postgres:").strip().startswith(_BACKGROUND)


def _stat(pid: int) -> _Stat:
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    fields = content[content.rindex(b")") + 2 :].split()
    own, children = (sum(map(int, fields[i : i + 2])) / _TICKS_A_SECOND for i in (11, 13))
    return _Stat(int(fields[1]), own, children)
