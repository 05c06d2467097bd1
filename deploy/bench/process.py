"""Child processes whose CPU time is measured to their end, by wait4, and their memory: roles and peers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meterstream.deploy.bench.cpu import rss_peak_bytes
from meterstream.deploy.stack.host import log_tail
from meterstream.schema.errors import MeterstreamError

POLL_S: Final = 0.02
STOP_WITHIN_S: Final = 40.0


@dataclass(frozen=True)
class Usage:
    """What a process used from its start to its end."""

    cpu_s: float
    rss_peak_bytes: int
    """As last seen while it ran."""


class Child:
    """A process of ours. Use as `async with`; leaving ends it, whatever happened."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        """`log` takes its output; the environment is ours unless given. Starts at once."""
        self.name = name
        self._log = log
        self._usage: Usage | None = None
        self._code: int | None = None
        self._rss_peak_bytes = 0
        ours_in, self._input = os.pipe()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.set_inheritable(self._input, False)
            self.pid = os.posix_spawn(
                command[0],
                list(command),
                dict(os.environ if env is None else env),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, ours_in, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsigdef=[signal.SIGINT, signal.SIGTERM],
                # As a supervisor does. Kernels deal processors out to sessions: in ours all would share one part.
                setsid=True,
            )
        finally:
            os.close(ours_in)
            os.close(output)

    async def __aenter__(self) -> Child:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._kill()
        os.close(self._input)

    def tell(self, line: str) -> None:
        """Writes a line to its standard input."""
        os.write(self._input, line.encode() + b"\n")

    def output(self) -> list[str]:
        """Every line that it has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()

    def check_alive(self) -> None:
        """Raises MeterstreamError with its last words when it has ended by itself."""
        if self._has_ended():
            raise MeterstreamError(f"{self.name} ended with {self._code}:\n" + "\n".join(log_tail(self._log)))

    async def stop(self) -> Usage:
        """SIGTERM, then its end. Raises MeterstreamError when it takes too long or fails."""
        self.check_alive()
        os.kill(self.pid, signal.SIGTERM)
        return await self.ended(STOP_WITHIN_S)

    async def ended(self, within_s: float) -> Usage:
        """Waits for it to end well. Raises MeterstreamError when it takes longer or fails."""
        deadline = time.monotonic() + within_s
        while not self._has_ended():
            if time.monotonic() > deadline:
                raise MeterstreamError(f"{self.name} did not end within {within_s:.0f} s")
            await asyncio.sleep(POLL_S)
        if self._code:
            self.check_alive()
        assert self._usage is not None
        return self._usage

    def _kill(self) -> None:
        if not self._has_ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._code = -signal.SIGKILL

    def _has_ended(self) -> bool:
        if self._code is None:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
                self._usage = Usage(used.ru_utime + used.ru_stime, self._rss_peak_bytes)
            else:
                with suppress(ProcessLookupError):  # it ends just now
                    self._rss_peak_bytes = rss_peak_bytes(self.pid)
        return self._code is not None


def start_role(role: str, *, env: Mapping[str, str], log: Path) -> Child:
    """A role as its supervisor would start it."""
    return Child(role, [sys.executable, "-m", "meterstream.deploy.roles", role], log=log, env=env)
