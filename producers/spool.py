"""The folder in which a process keeps what it has recorded and the broker has not confirmed.

One folder a client and process, named by time, locked while its process lives. A lock goes with its process: a folder
without one belongs to nobody, and whoever locks it first sends what is in it. Local disks only: the lock is flock's.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from meterstream.producers.segment import Segment
from meterstream.schema import failpoints

_LOCK: Final = "lock"
_SUFFIX: Final = ".seg"
_UNNAMED: Final = ".new-"
"""A folder that is not locked yet has such a name, so that nobody takes it for one that was left."""


class Spool:
    """A folder that this process has locked."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock
        self._next = 1

    @classmethod
    def create(cls, root: Path) -> Self:
        """A new folder below `root`, locked. Raises OSError."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{time.time_ns() // 1_000_000:013d}-{os.getpid()}-{secrets.token_hex(4)}"
        unnamed = root / f"{_UNNAMED}{name}"
        unnamed.mkdir(mode=0o700)
        lock = os.open(unnamed / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            failpoints.hit("spool_locked")
            unnamed.rename(root / name)
        except BaseException:
            os.close(lock)
            raise
        return cls(root / name, lock)

    @classmethod
    def adopt(cls, root: Path) -> Iterator[Self]:
        """Each folder below `root` that nobody holds, the oldest first, locked. Raises OSError."""
        names = sorted(entry.name for entry in os.scandir(root)) if root.is_dir() else []
        for name in names:
            if not name.startswith("."):
                lock = _try_lock(root / name / _LOCK)
                if lock is not None:
                    failpoints.hit("spool_adopted")
                    yield cls(root / name, lock)

    @staticmethod
    def bytes_beside(root: Path, own: Spool | None) -> int:
        """In all folders below `root` but `own`, of living processes and dead ones. Raises OSError."""
        found = 0
        for folder in os.scandir(root) if root.is_dir() else ():
            if own is None or folder.name != own.folder.name:
                with suppress(FileNotFoundError, NotADirectoryError):  # sent and removed meanwhile
                    found += sum(file.stat().st_size for file in os.scandir(folder))
        return found

    def new_segment(self, size: int) -> Segment:
        """Raises OSError where the disk has no room for `size` bytes."""
        segment = Segment.create(self.folder / f"{self._next:08d}{_SUFFIX}", size)
        self._next += 1
        return segment

    def segments(self) -> list[Segment]:
        """What was written, in order. Raises OSError."""
        found: list[Segment] = []
        try:
            for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
                segment = Segment.load(path)
                if segment is None:
                    path.unlink()
                else:
                    found.append(segment)
        except OSError:
            for segment in found:
                segment.close()
            raise
        return found

    def sync(self) -> None:
        """Returns when the names of the files survive a power cut. Blocks. Raises OSError."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Gives the folder to whoever wants it."""
        os.close(self._lock)

    def delete(self) -> None:
        """Removes the folder, which has no segment any more. Raises OSError."""
        (self.folder / _LOCK).unlink()
        failpoints.hit("spool_unlocked")
        with suppress(OSError):  # a torn file stays in it; or one who looked for folders has removed the empty one
            self.folder.rmdir()
        self.close()


def _try_lock(path: Path) -> int | None:
    try:
        lock = os.open(path, os.O_RDWR)
    except OSError:
        # Gone, or its owner died between the lock's end and the folder's: that one is empty.
        with suppress(OSError):
            path.parent.rmdir()
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_there = os.stat(path).st_ino == os.fstat(lock).st_ino
    except OSError:  # somebody has it, or has just removed it
        is_there = False
    if not is_there:
        os.close(lock)
        return None
    return lock
