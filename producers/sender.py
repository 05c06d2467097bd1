"""Takes what was recorded to the broker, in order, until all of it is confirmed: one task in one event loop.

A window is sent, confirmed by the broker, and only then taken out of the buffer. After any error the connection is made
anew and the window is sent again: the same events under the same ids, which count once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from meterstream.producers.buffer import Bounds, Buffer, Window
from meterstream.producers.outbox import Outbox
from meterstream.producers.quiet import quieten
from meterstream.producers.segment import Frame, Kind
from meterstream.producers.spool import Spool
from meterstream.producers.transport import Connect, Transport
from meterstream.schema import tracing
from meterstream.schema.cloudevents import BATCH_HEADERS, STRUCTURED_HEADERS, Headers
from meterstream.schema.errors import DeliveryFailed, MeterstreamError

RAW: Final = "usage.raw"
WINDOW_FRAMES_MAX: Final = 5_000
WINDOW_BYTES_MAX: Final = 2 * 1024 * 1024
RECORD_BYTES: Final = 64 * 1024
"""Events of one tenant go into one record up to this; a larger one has a record of its own."""
GATHER_S: Final = 0.004
"""After the first record of a quiet time: so that a burst wakes the sender once."""
LOOK_EVERY_S: Final = 5.0
"""How often a quiet sender looks for folders of dead processes and streams that have not ended."""
PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
PAUSE_CLOSING_MAX_S: Final = 0.5
"""At the end there are only seconds left."""


class Sender:
    """`run` is a task of `loop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        connect: Connect,
        root: Path | None,
        bounds: Bounds,
        stream_max_s: float,
    ) -> None:
        self._outbox = outbox
        self._connect = connect
        self._root = root
        self._bounds = bounds
        self._stream_max_s = stream_max_s
        self._loop = loop
        self._work = asyncio.Event()
        self._is_asleep = False
        self._is_closing = False
        self._failures = 0
        self._left_behind: list[Buffer] = []
        self._look_at = 0.0

    def wake(self) -> None:
        """There is a record. Any thread."""
        if self._is_asleep:
            self._is_asleep = False
            with suppress(RuntimeError):  # the loop has just been closed: the next record starts another
                self._loop.call_soon_threadsafe(self._work.set)

    def finish(self) -> None:
        """`run` returns when everything recorded before is confirmed. In the loop's thread."""
        self._is_closing = True
        self._work.set()

    def forget(self) -> None:
        """In a forked child: what dead processes have left is the parent's to send."""
        for buffer in self._left_behind:
            buffer.forget()

    async def run(self) -> None:
        """Returns after `finish`; until then whatever goes wrong is tried again."""
        quieten()
        try:
            while True:
                try:
                    async with self._connect() as transport:
                        await self._deliver(transport)
                    return
                except Exception as error:  # nothing may end it but `finish`: the service has nobody else who sends
                    told = error if isinstance(error, MeterstreamError) else DeliveryFailed(repr(error), 0)
                    self._outbox.complaints.tell("the broker does not take what was recorded, it waits", told)
                if self._is_closing and not self._outbox.buffer.waiting:
                    return  # what others have left is for the next one
                await self._pause()
        finally:
            for buffer in self._left_behind:
                buffer.close()

    async def _deliver(self, transport: Transport) -> None:
        while True:
            if time.monotonic() >= self._look_at:
                await self._look()
            found = self._next()
            if found is None:
                if self._is_closing:
                    return
                await self._sleep()
                continue
            buffer, window = found
            await self._send(transport, window)
            self._failures = 0
            buffer.confirm(window)
            self._done(buffer)

    async def _send(self, transport: Transport, window: Window) -> None:
        """Returns when the broker has confirmed all of it."""
        trace = tracing.Batch(f"send {RAW}", "producer", **{"messaging.destination.name": RAW})
        trace.take_events(frame.value for frame in window.frames)
        context = trace.headers
        try:
            for key, value, headers in _records(window.frames):
                await transport.send(RAW, key, value, (*headers, *context))
            await transport.flush()
        except BaseException as error:
            trace.end(error)
            raise
        trace.end(events=sum(frame.kind is not Kind.OPEN for frame in window.frames))

    def _next(self) -> tuple[Buffer, Window] | None:
        for buffer in (*self._left_behind, self._outbox.buffer):
            window = buffer.read(WINDOW_FRAMES_MAX, WINDOW_BYTES_MAX)
            if window is not None:
                return buffer, window
        return None

    def _done(self, buffer: Buffer) -> None:
        if buffer is not self._outbox.buffer and not buffer.waiting:
            self._left_behind.remove(buffer)
            self._outbox.recovered += buffer.events
            buffer.close()
        self._outbox.progress.happened()

    async def _look(self) -> None:
        """For streams without an end, and for folders that dead processes have left."""
        is_first, self._look_at = not self._look_at, time.monotonic() + LOOK_EVERY_S
        for stream_id in self._outbox.buffer.end_streams(time.monotonic() - self._stream_max_s):
            self._outbox.complaints.log(
                f"a stream did not end within {self._stream_max_s:.0f} s, its estimate is sent", stream_id
            )
        if self._root is not None and (is_first or not self._is_closing):  # a short life looks once, too
            await self._adopt_beside(self._root)

    async def _adopt_beside(self, root: Path) -> None:
        adopting = asyncio.ensure_future(asyncio.to_thread(self._adopt, root))
        try:
            self._left_behind += await asyncio.shield(adopting)
        except asyncio.CancelledError:
            for buffer in await adopting:
                buffer.close()  # somebody else's now
            raise

    def _adopt(self, root: Path) -> list[Buffer]:
        """Blocks on the disk. What cannot be read stays where it is."""
        found = []
        for spool in Spool.adopt(root):
            try:
                buffer = Buffer.left_behind(spool, self._bounds)
            except OSError as error:
                self._outbox.complaints.log("a folder of the spool is left alone", error)
                spool.close()
                continue
            if buffer.torn_bytes:
                self._outbox.complaints.log(
                    "the spool of a dead process is torn, what is whole is sent, the file stays as *.torn",
                    f"{buffer.torn_bytes} bytes in {spool.folder}",
                )
            if buffer.waiting:
                found.append(buffer)
            else:
                buffer.close()
        return found

    async def _sleep(self) -> None:
        self._work.clear()
        self._is_asleep = True
        if not self._outbox.buffer.waiting and not self._is_closing:  # after the mark, so that no record is missed
            try:
                async with asyncio.timeout(max(0.0, self._look_at - time.monotonic())):
                    await self._work.wait()
            except TimeoutError:
                return
            finally:
                self._is_asleep = False
        self._is_asleep = False
        if not self._is_closing:
            await asyncio.sleep(GATHER_S)

    async def _pause(self) -> None:
        """Longer with each failure in a row. What is on disk is made safe against a power cut meanwhile."""
        self._failures += 1
        longest_s = PAUSE_CLOSING_MAX_S if self._is_closing else PAUSE_MAX_S
        wait_s = min(longest_s, PAUSE_S * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
        if self._outbox.buffer.waiting and not self._is_closing:
            try:
                await asyncio.to_thread(self._outbox.buffer.sync)
            except Exception as error:  # whatever it is, the next try may send it all
                self._outbox.complaints.log("the spool cannot be synchronised", error)
        self._work.clear()
        with suppress(TimeoutError):  # `finish` ends the pause
            async with asyncio.timeout(wait_s):
                await self._work.wait()


def _records(frames: Iterable[Frame]) -> Iterator[tuple[bytes, bytes, Headers]]:
    """(key, value, headers): a tenant's events together, in their order."""
    by_key: dict[bytes, list[bytes]] = {}
    for frame in frames:
        if frame.kind is not Kind.OPEN:
            by_key.setdefault(frame.key, []).append(frame.value)
    for key, values in by_key.items():
        taken: list[bytes] = []
        size = 0
        for value in values:
            if taken and size + len(value) > RECORD_BYTES:
                yield _record(key, taken)
                taken, size = [], 0
            taken.append(value)
            size += len(value) + 1
        yield _record(key, taken)


def _record(key: bytes, values: list[bytes]) -> tuple[bytes, bytes, Headers]:
    if len(values) == 1:
        return key, values[0], STRUCTURED_HEADERS
    return key, b"[" + b",".join(values) + b"]", BATCH_HEADERS
