"""Reading the logs of servers and roles."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from meterstream.deploy.stack.host import log_tail
from meterstream.deploy.stack.state import Folder
from meterstream.schema.errors import UsageError

FOLLOW_POLL_S = 0.2


def find(home: Path, name: str | None) -> dict[str, Path]:
    """The logs of a folder by name, or that one. Raises UsageError naming those that there are."""
    logs = {path.stem: path for path in sorted(Folder(home).logs.glob("*.log"))}
    if name is None:
        return logs
    if name not in logs:
        raise UsageError(f"there is no log {name!r}; there are: {', '.join(logs) or 'none'}")
    return {name: logs[name]}


def last_lines(log: Path, lines: int) -> list[str]:
    """At most `lines` of the last 1 MB."""
    return log_tail(log, lines=lines, bytes_max=1 << 20)


def follow(logs: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """(name, line) for ever, from this call on; goes on where a log is set aside. Iterating blocks."""
    return _lines_from(logs, {name: path.stat().st_size for name, path in logs.items()})


def _lines_from(logs: dict[str, Path], positions: dict[str, int]) -> Iterator[tuple[str, str]]:
    rests = dict.fromkeys(logs, b"")
    while True:
        for name, path in logs.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(positions[name] if positions[name] <= size else 0)
                *lines, rests[name] = (rests[name] + file.read()).split(b"\n")
                positions[name] = file.tell()
            for line in lines:
                yield name, line.decode("utf-8", errors="replace")
        time.sleep(FOLLOW_POLL_S)
