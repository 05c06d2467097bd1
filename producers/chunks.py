"""Reads a blocking stream from asyncio without stopping the loop: a slow pipe must not hold up the sender."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError
from threading import Event, Thread
from typing import Final, Protocol

from meterstream.schema.errors import MeterstreamError, UsageError

CHUNK_BYTES: Final = 256 * 1024
CHUNKS_AHEAD_MAX: Final = 4


class ByteStream(Protocol):
    """What can be read: a raw file, a pipe, a decompressor."""

    def read(self, size: int, /) -> bytes | None:
        """Up to `size` bytes, b"" at the end. May block."""


async def read_chunks(stream: ByteStream, name: str) -> AsyncGenerator[bytes, None]:
    """Chunks in order, at most `CHUNKS_AHEAD_MAX` read ahead. `name` is for messages.

    Raises UsageError when the stream cannot be read to its end.
    """
    # A daemon, not an executor's thread: one that waits for a terminal must not keep the process alive.
    chunks: asyncio.Queue[bytes | MeterstreamError] = asyncio.Queue(CHUNKS_AHEAD_MAX)
    loop = asyncio.get_running_loop()
    left = Event()
    Thread(target=_read_all, args=(stream, name, chunks, loop, left), name="read-chunks", daemon=True).start()
    try:
        while chunk := await chunks.get():
            if isinstance(chunk, MeterstreamError):
                raise chunk
            yield chunk
    finally:
        left.set()
        while not chunks.empty():  # a thread that waits for room goes on, sees `left` and ends
            chunks.get_nowait()


def _read_all(
    stream: ByteStream,
    name: str,
    chunks: asyncio.Queue[bytes | MeterstreamError],
    loop: asyncio.AbstractEventLoop,
    left: Event,
) -> None:
    item: bytes | MeterstreamError = b"-"
    while isinstance(item, bytes) and item and not left.is_set():
        try:
            item = stream.read(CHUNK_BYTES) or b""
        except (OSError, ValueError, EOFError, zlib.error) as error:
            item = UsageError(f"{name} cannot be read to its end: {error}. The lines before have been sent")
        put = chunks.put(item)
        try:
            asyncio.run_coroutine_threadsafe(put, loop).result()
        except (RuntimeError, CancelledError):  # the loop has been closed
            put.close()
            return
