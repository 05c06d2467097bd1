"""A TCP proxy before Postgres that forwards COMMIT and then hangs up instead of bringing the answer back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

COMMIT = b"COMMIT;\0"
PIECE = 65_536


class CommitCutter:
    """Cuts every `nth` COMMIT of all connections, at most `cuts_max` times. Use as an async context manager."""

    def __init__(self, host: str, port: int, *, nth: int, cuts_max: int) -> None:
        self.cuts = 0
        """How many answers to a COMMIT were never delivered; each of these transactions is committed."""
        self._target = host, port
        self._nth = nth
        self._cuts_max = cuts_max
        self._commits = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens, on the loopback address."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> CommitCutter:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: asyncio would make it a task of its own, and complain when we cancel that.
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        is_cut = asyncio.Event()
        answers = asyncio.create_task(_forward_answers(server_reader, writer, is_cut))
        try:
            while piece := await reader.read(PIECE):
                # The client waits for every answer before it sends COMMIT, so that it is never split or merged.
                if piece.endswith(COMMIT) and self._is_next():
                    is_cut.set()
                server_writer.write(piece)
                await server_writer.drain()
                if is_cut.is_set():
                    await answers  # the answer has come, so the transaction is committed
                    self.cuts += 1
                    return
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            writer.transport.abort()
            server_writer.transport.abort()

    def _is_next(self) -> bool:
        self._commits += 1
        return self.cuts < self._cuts_max and self._commits % self._nth == 0


async def _forward_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: asyncio.Event) -> None:
    with suppress(OSError):
        while (piece := await reader.read(PIECE)) and not is_cut.is_set():
            writer.write(piece)
            await writer.drain()
