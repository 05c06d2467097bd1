"""A stack for one run of the benchmark: in a temporary folder, durable, prepared, gone at the end."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from meterstream.deploy import stack
from meterstream.deploy.connections import ADDRESSES, resolve
from meterstream.deploy.prepare import prepare
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.settings import CONFIG_VARIABLE, PREFIX, Settings

STOP_WITHIN_S: Final = 20.0
_POLL_S: Final = 0.02
_WHERE: Final = frozenset(PREFIX + name.upper() for name in ("home", *ADDRESSES)) | {CONFIG_VARIABLE}


class Testbed:
    """Where things are, in the folder of a stack that is up."""

    def __init__(self, home: Path) -> None:
        self.home = home
        nowhere: dict[str, Any] = dict.fromkeys(ADDRESSES, "")
        self.settings = Settings(home=home, **nowhere)
        """With every address once `prepare` is done."""

    async def prepare(self) -> None:
        """Commit timestamps switched on, topics, tables, shipped prices. Main thread only; blocks."""
        await _keep_commit_times(self.home)
        await prepare(self.settings)
        self.settings = resolve(self.settings)

    @property
    def admin_dsn(self) -> str:
        """Of the superuser; holds the password."""
        return self.settings.postgres_admin_dsn.get_secret_value()

    def log(self, name: str) -> Path:
        """The log of a process of ours."""
        return self.home / "logs" / f"bench-{name}.log"

    def pid(self, server: str) -> int:
        """Of the main process of `kafka` or `postgres`. Raises MeterstreamError when it does not run."""
        return _server(self.home, server).pid

    def memory_bytes(self, server: str) -> int:
        """Of all its processes, shared pages in proportion."""
        return _server(self.home, server).memory_bytes

    def role_environment(self) -> dict[str, str]:
        """Of a role: what the user has set, but on this stack."""
        kept = {name: value for name, value in os.environ.items() if name not in _WHERE}
        return {**kept, f"{PREFIX}HOME": str(self.home)}


@dataclass(frozen=True)
class _Server:
    pid: int
    memory_bytes: int


@contextmanager
def stack_in_temporary_folder() -> Iterator[Path]:
    """A running stack, safe against a crash of the machine as in production. Main thread only; blocks."""
    with tempfile.TemporaryDirectory(prefix="meterstream-bench-") as folder:
        home = Path(folder) / ".meterstream"
        stack.up(home, durable=True, bind_to_parent=True)
        try:
            yield home
        finally:
            stack.down(home)


async def _keep_commit_times(home: Path) -> None:
    """The setting needs a restart of Postgres; the stack starts again what does not run."""
    addresses = stack.addresses(home)
    assert addresses is not None
    connection = await asyncpg.connect(addresses.dsn())
    await connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    await connection.close()
    pid = _server(home, "postgres").pid
    os.kill(pid, signal.SIGINT)
    _await_end(pid)
    stack.up(home, durable=True, bind_to_parent=True)


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + STOP_WITHIN_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            raise MeterstreamError(f"Postgres did not stop within {STOP_WITHIN_S:.0f} s")
        time.sleep(_POLL_S)


def _server(home: Path, name: str) -> _Server:
    for server in stack.status(home).servers:
        if server.name == name and server.state == "running" and server.pid is not None:
            return _Server(server.pid, server.memory_bytes or 0)
    raise MeterstreamError(f"{name} does not run any more; its log is gone with the benchmark's folder")
