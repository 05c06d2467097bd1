"""Publishes a file of events, one CloudEvent in JSON a line; can be stopped at any moment and run again."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec

from meterstream.producers.chunks import ByteStream, read_chunks
from meterstream.producers.line_check import check_line
from meterstream.producers.lines import Line, LineSplitter
from meterstream.producers.publish_progress import Progress, ProgressFile
from meterstream.schema.cloudevents import STRUCTURED_HEADERS, Headers
from meterstream.schema.errors import UsageError

CHECKPOINT_S: Final = 1.0
"""So much is sent again, as duplicates, after a kill."""
STANDARD_INPUT: Final = "-"

_GZIP_MAGIC: Final = b"\x1f\x8b"
_STDIN_FILENO: Final = 0
_BOM: Final = b"\xef\xbb\xbf"


class Transport(Protocol):
    """Where records go; `meterstream.producers.transport.kafka` in life."""

    async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Hands one record over. May wait for room."""

    async def flush(self) -> None:
        """Returns when every record is confirmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPolicy:
    """What to do with the lines."""

    topic: str
    send_invalid: bool = False
    """Send a bad line all the same, to see it rejected."""
    derive_ids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told what; called between records, must not block."""

    refused: Callable[[int, str], None] = lambda number, problem: None
    """(line number, problem), for every bad line."""
    progressed: Callable[[Progress], None] = lambda progress: None
    """After each piece of input."""


class UsageFile:
    """A file of events, plain or gzip, or standard input. Close it after use."""

    def __init__(self, path: str) -> None:
        """Raises UsageError when the file cannot be opened."""
        self.name = "standard input" if path == STANDARD_INPUT else path
        self.path = None if path == STANDARD_INPUT else Path(path)
        try:
            # Raw descriptor: a buffered reader that waits in a thread would block the end of the process.
            self._raw = io.FileIO(_STDIN_FILENO, closefd=False) if self.path is None else self._open(self.path)
        except OSError as error:
            raise UsageError(f"{path} cannot be opened: {error.strerror or error}") from error
        self.size = self.path.stat().st_size if self.path else None
        """Bytes on disk; None for standard input."""
        self.stream: ByteStream = self._raw
        if self.path is not None and self._raw.read(2) == _GZIP_MAGIC:
            self.stream = cast("ByteStream", gzip.GzipFile(fileobj=self._raw, mode="rb"))
        if self.path is not None:
            self._raw.seek(0)

    @staticmethod
    def _open(path: Path) -> io.FileIO:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: give a file with one event a line")
        return io.FileIO(path)

    def skip(self, offset: int) -> None:
        """Goes to `offset` bytes of the content; reads a gzip file up to there. Blocks."""
        if offset:
            cast("io.FileIO", self.stream).seek(offset)

    def bytes_read(self) -> int:
        """Bytes of `size` that have been read so far."""
        return self._raw.tell() if self.size is not None else 0

    def close(self) -> None:
        """Lets the file go."""
        self._raw.close()


async def publish(
    file: UsageFile,
    transport: Transport,
    policy: PublishPolicy,
    *,
    progress: Progress,
    checkpoint: Callable[[Progress], None],
    watch: Watch,
) -> Progress:
    """Sends every good line after `progress`; `checkpoint` is called only with what is confirmed.

    Returns the final progress. Raises UsageError when the file cannot be read, MeterstreamError when the
    broker refuses; what the last checkpoint says stays true.
    """
    await asyncio.to_thread(file.skip, progress.offset)
    splitter = LineSplitter(lines_before=progress.lines, bytes_before=progress.offset)
    clock = asyncio.get_running_loop().time
    checkpoint_due = clock() + CHECKPOINT_S
    async with aclosing(read_chunks(file.stream, file.name)) as chunks:
        async for chunk in chunks:
            for line in splitter.feed(chunk):
                progress = await _publish_line(line, transport, policy, progress, watch)
            watch.progressed(progress)
            if clock() >= checkpoint_due:
                await transport.flush()
                checkpoint(progress)
                checkpoint_due = clock() + CHECKPOINT_S
    for line in splitter.finish():
        progress = await _publish_line(line, transport, policy, progress, watch)
    await transport.flush()
    progress = msgspec.structs.replace(progress, is_complete=True)
    checkpoint(progress)
    watch.progressed(progress)
    return progress


async def _publish_line(
    line: Line, transport: Transport, policy: PublishPolicy, progress: Progress, watch: Watch
) -> Progress:
    if line.number == 1:
        line = line._replace(content=line.content.removeprefix(_BOM))
    sent = refused = 0
    if line.is_too_long or line.content.strip():
        checked = check_line(line, derive_ids=policy.derive_ids)
        if checked.problem:
            watch.refused(line.number, checked.problem)
        refused = bool(checked.problem)
        if not checked.problem or (policy.send_invalid and not line.is_too_long):
            await transport.send(policy.topic, checked.key, checked.value, STRUCTURED_HEADERS)
            sent = 1
    return Progress(progress.path, line.number, line.end, progress.sent + sent, progress.refused + refused)


@dataclass(frozen=True, slots=True)
class Published:
    """How a run ended. `was_complete`: an earlier run had published this very file; nothing was sent."""

    progress: Progress
    was_complete: bool = False


async def publish_file(
    path: str,
    policy: PublishPolicy,
    *,
    connect: Callable[[], AbstractAsyncContextManager[Transport]],
    progress_folder: Path,
    destination: str,
    again: bool,
    watch: Callable[[UsageFile], Watch],
) -> Published:
    """Publishes a file from where an earlier run stopped; standard input always from its start.

    `connect()` gives an async context manager of a Transport; `destination` names the cluster. Raises as
    `publish` does.
    """
    with closing(UsageFile(path)) as file:
        if file.path is None:
            store = None
            progress = Progress(file.name)
        else:
            store = ProgressFile(progress_folder, file.path, f"{destination}\n{policy.topic}")
            progress = Progress(str(file.path)) if again else store.read()
        if progress.is_complete:
            return Published(progress, was_complete=True)
        checkpoint = store.write if store else lambda progress: None
        async with connect() as transport:
            progress = await publish(
                file, transport, policy, progress=progress, checkpoint=checkpoint, watch=watch(file)
            )
        return Published(progress)
