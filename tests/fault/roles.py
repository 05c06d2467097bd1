"""Roles as real processes: started, killed, started again, and their ends written down."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import psutil

ROLES = ("-m", "meterstream.deploy.roles")
STOP_LIMIT_S = 40.0
FAILPOINT = "METERSTREAM_FAILPOINT"
KILLED = -int(signal.SIGKILL)
PR_SET_PDEATHSIG = 1


class Role:
    """One role that is started again whenever it ends, as a supervisor would.

    `armed`: failpoints, one for each life; later lives have none. `on_death` runs before the next life.
    See meterstream.schema.failpoints. `program`: Python's arguments before the role's name.
    """

    def __init__(
        self,
        name: str,
        *,
        env: dict[str, str],
        log: Path,
        armed: Iterable[str] = (),
        on_death: Callable[[], Awaitable[None]] | None = None,
        program: Sequence[str] = ROLES,
    ) -> None:
        self.name = name
        self.exits: list[int] = []
        """How each life ended."""
        self._env = env
        self._log = log
        self._armed = deque(armed)
        self._on_death = on_death
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the life that runs now, or was the last one."""
        assert self._process is not None
        return self._process.pid

    def said(self) -> str:
        """All that it has logged, over all lives."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    async def is_paused(self) -> bool:
        """Whether the life that runs now has stopped at its failpoint."""
        return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    async def start(self) -> None:
        """The first life; the others follow by themselves."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    def signal(self, number: signal.Signals) -> None:
        """To the process that runs now; one that has just ended gets none."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self) -> None:
        """Drains; a process that does not end is killed."""
        self._stopping.set()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        assert self._keeper is not None
        try:
            await asyncio.wait_for(asyncio.shield(self._keeper), STOP_LIMIT_S)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self._keeper

    async def end(self) -> None:
        """Kills it for good."""
        self._stopping.set()
        self.signal(signal.SIGKILL)
        assert self._keeper is not None
        await self._keeper

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            self.exits.append(await self._process.wait())
            if self._on_death is not None and not self._stopping.is_set():
                await self._on_death()
            if self._stopping.is_set():
                return
            await self._spawn()
            if self._stopping.is_set():  # `stop` came too early to reach this life
                self.signal(signal.SIGTERM)

    async def _spawn(self) -> None:
        env = dict(self._env)
        if self._armed:
            env[FAILPOINT] = self._armed.popleft()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._program,
                self.name,
                env=env,
                cwd=self._log.parent,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_the_test,
            )


def clean_environment() -> dict[str, str]:
    """Ours, without any setting of the product."""
    return {name: value for name, value in os.environ.items() if not name.startswith("METERSTREAM_")}


def _die_with_the_test() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
