"""A file of events as a stream of bytes: plain or gzip, a file, a pipe, or standard input."""

from __future__ import annotations

import io
import os
import stat
from gzip import GzipFile
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from meterstream.producers.chunks import ByteStream
from meterstream.schema.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

STANDARD_INPUT: Final = "-"

_GZIP_MAGIC: Final = b"\x1f\x8b"
_STDIN_FILENO: Final = 0


class UsageFile:
    """What `path` names, opened. Close it after use."""

    def __init__(self, path: str) -> None:
        """Raises UsageError when it cannot be opened."""
        is_standard_input = path == STANDARD_INPUT
        # What is not UTF-8 in the name could be neither shown nor stored.
        self.name = "standard input" if is_standard_input else os.fsencode(path).decode("utf-8", "backslashreplace")
        try:
            # Raw descriptor: a buffered reader that waits in a thread would block the end of the process.
            self._raw = io.FileIO(_STDIN_FILENO, closefd=False) if is_standard_input else io.FileIO(path)
            self.status = os.fstat(self._raw.fileno())
        except IsADirectoryError as error:
            raise UsageError(f"{self.name} is a folder: give a file with one event a line") from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"{self.name or 'a file without a name'} cannot be opened: {reason}") from error
        is_regular = stat.S_ISREG(self.status.st_mode) and not is_standard_input
        self.path = Path(path).resolve() if is_regular else None
        """None for what can be read only once: a pipe, standard input."""
        self.size = self.status.st_size if is_regular else None
        """Bytes on disk; None where that is not known."""
        self.stream: ByteStream = self._open() if is_regular else _Pipe(self._raw)

    def _open(self) -> ByteStream:
        is_gzip = self._raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        self._raw.seek(0)
        return cast("ByteStream", GzipFile(fileobj=self._raw, mode="rb")) if is_gzip else self._raw

    def first_bytes(self, size: int) -> bytes:
        """The beginning of a file on disk, as it is there. Only before it is read."""
        return os.pread(self._raw.fileno(), size, 0)

    def skip(self, offset: int) -> int:
        """Goes to `offset` bytes of the content. Returns how many of them have still to be read and dropped."""
        if self.stream is not self._raw:
            return offset
        self._raw.seek(offset)
        return 0

    def bytes_read(self) -> int:
        """Bytes of `size` that have been read so far."""
        return self._raw.tell() if self.size is not None else 0

    def close(self) -> None:
        """Lets the file go."""
        self._raw.close()


class _Pipe:
    """Finds out whether it is gzip at its first read: before that a pipe may keep one waiting."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._stream: ByteStream | None = None

    def read(self, size: int, /) -> bytes | None:
        if self._stream is None:
            head = b""
            while len(head) < len(_GZIP_MAGIC) and (piece := self._raw.read(len(_GZIP_MAGIC) - len(head))):
                head += piece
            stream = _Prefixed(head, self._raw)
            self._stream = cast("ByteStream", GzipFile(fileobj=stream, mode="rb")) if head == _GZIP_MAGIC else stream
        return self._stream.read(size)


class _Prefixed(io.RawIOBase):
    """Bytes that have been read already, then the rest."""

    def __init__(self, head: bytes, raw: io.FileIO) -> None:
        self._head = head
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        piece = self._head[: len(view)] or self._raw.read(len(view)) or b""
        self._head = self._head[len(view) :]
        view[: len(piece)] = piece
        return len(piece)
