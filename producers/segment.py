"""A piece of the outbox: frames one after another in memory, or in a file that is mapped into memory.

A file's bytes belong to the kernel from the moment they are written: they survive the process's death (kill -9), and
no system call is made for a record. Power cuts are another matter: see `sync`. A file has its full length from the
beginning, so a full disk is an error when a segment is made and never when a record is written.

File: magic (8 bytes) | position up to which all is confirmed (u64) | frames | zeros.
Frame: length of the rest (u32) | CRC-32 of the rest (u32) | the rest: kind (u8) | 0 | length of the key (u16) | key |
value. Little endian. A frame whose checksum is wrong ends the file: the process died while it wrote it.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Self
from zlib import crc32

from meterstream.schema import failpoints

_MAGIC: Final = b"msspool1"
_HEADER: Final = struct.Struct("<8sQ")
_CONFIRMED: Final = struct.Struct("<Q")
_FRAME: Final = struct.Struct("<II")
_REST: Final = struct.Struct("<BxH")
TORN_SUFFIX: Final = ".torn"
START: Final = _HEADER.size
OVERHEAD: Final = START + _FRAME.size + _REST.size
"""What a segment needs for one frame beside key and value."""


class Kind(IntEnum):
    """What a frame says."""

    EVENT = 1
    """To be sent."""
    OPEN = 2
    """An event to be sent only if no FINAL of the same id ever follows: the estimate of a stream. A later one replaces
    an earlier one."""
    FINAL = 3
    """To be sent; ends the stream whose OPEN has the same id."""


class Frame(NamedTuple):
    """One entry."""

    kind: Kind
    key: bytes
    value: bytes


class Segment:
    """Written by one thread at a time; what is before `end` may be read meanwhile. Never shared by two processes."""

    def __init__(self, memory: mmap.mmap | bytearray, path: Path | None = None, descriptor: int = -1) -> None:
        self._memory = memory
        self._path = path
        self._descriptor = descriptor
        self.end = START
        """Where the next frame goes."""
        self.confirmed = START
        """Everything before it need not be sent any more."""
        self.torn_bytes = 0
        """Behind `end`, of a file that was left: the record in which its process died, or a damage."""

    @classmethod
    def in_memory(cls, size: int) -> Self:
        """Lost with the process. `size` in bytes."""
        return cls(bytearray(size))

    @classmethod
    def create(cls, path: Path, size: int) -> Self:
        """A new file of `size` bytes. Raises OSError where there is no room for all of it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            memory = mmap.mmap(descriptor, size)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):  # the first error is the one to be told
                path.unlink()
            raise
        failpoints.hit("segment_allocated")
        memory[:START] = _HEADER.pack(_MAGIC, START)
        return cls(memory, path, descriptor)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """A file that another process has left; None where nothing was written.

        Raises OSError, also where it is no segment of this version.
        """
        descriptor = os.open(path, os.O_RDWR)
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, len(_MAGIC), 0)
        if size < START or head != _MAGIC:
            os.close(descriptor)
            if head.strip(b"\0"):
                raise OSError(errno.EINVAL, "no segment of this version", str(path))
            return None
        memory = mmap.mmap(descriptor, size)
        segment = cls(memory, path, descriptor)
        _, confirmed = _HEADER.unpack_from(segment._memory)
        boundaries = {START}
        for _, position in segment.read(START, size):
            segment.end = position
            boundaries.add(position)
        segment.torn_bytes = len(segment._memory[segment.end :].rstrip(b"\0"))
        with suppress(OSError):  # nobody writes to it any more: the room behind is the disk's
            memory.resize(segment.end + segment.torn_bytes)
        # A position that is none (a damaged disk) means: send all of it again; it counts once.
        segment.confirmed = confirmed if confirmed in boundaries else START
        return segment

    @property
    def is_file(self) -> bool:
        """Whether its frames outlive the process."""
        return self._path is not None

    @property
    def size(self) -> int:
        """In bytes, of what is written and what has room."""
        return len(self._memory)

    def append(self, kind: Kind, key: bytes, value: bytes) -> bool:
        """False: no room."""
        rest = _REST.pack(kind, len(key)) + key + value
        frame = _FRAME.pack(len(rest), crc32(rest)) + rest
        end = self.end + len(frame)
        if end > len(self._memory):
            return False
        self._memory[self.end : end] = frame
        self.end = end
        return True

    def read(self, start: int, end: int) -> Iterator[tuple[Frame, int]]:
        """(frame, position after it) from `start` on, up to `end` or the first bytes that are no whole frame."""
        memory = self._memory
        while start + _FRAME.size + _REST.size <= end:
            length, checksum = _FRAME.unpack_from(memory, start)
            start += _FRAME.size
            if not _REST.size <= length <= end - start:
                return
            rest = memory[start : start + length]
            if crc32(rest) != checksum:
                return
            kind, key_length = _REST.unpack_from(rest)
            value_at = _REST.size + key_length
            start += length
            yield Frame(Kind(kind), bytes(rest[_REST.size : value_at]), bytes(rest[value_at:])), start

    def confirm(self, position: int) -> None:
        """Everything before `position` is with the broker."""
        self._memory[len(_MAGIC) : START] = _CONFIRMED.pack(position)
        self.confirmed = position

    def rewind(self) -> None:
        """Begins anew: everything is confirmed, and nobody reads it."""
        self.end = START
        self.confirm(START)

    def sync(self) -> None:
        """Returns when the file survives a power cut. Blocks. Raises OSError."""
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Lets the file go, and keeps it."""
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def delete(self) -> None:
        """Lets it go for ever; a file that is torn stays under another name, for a person to see. Raises OSError."""
        self.close()
        if self._path is not None and self.torn_bytes:
            self._path.rename(self._path.with_suffix(TORN_SUFFIX))
        elif self._path is not None:
            self._path.unlink()
