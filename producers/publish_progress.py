"""How far a file has been published: one small file beside the data, written only after acknowledgements."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from meterstream.producers.usage_file import UsageFile
from meterstream.schema.errors import UsageError

FIRST_BYTES: Final = 64 * 1024
OPEN_LINES_MAX: Final = 100_000
"""So many bad lines are remembered one by one. From the next one on a later run sends everything again."""


class Progress(msgspec.Struct):
    """Every line up to `offset` has been sent and confirmed, but those in `refused`.

    It says nothing about options: a later run with others deals with the open lines alone.
    """

    path: str
    lines: int = 0
    offset: int = 0
    """Bytes, after decompression."""
    sent: int = 0
    """Lines."""
    refused: set[int] = set()
    """Numbers of the bad lines that were not sent."""
    sent_invalid: set[int] = set()
    """Numbers of the bad lines that were sent as they are."""
    is_complete: bool = False
    """All lines have been dealt with; open ones may be left."""

    def has_open_lines(self) -> bool:
        """Whether a run with other options could send more."""
        return bool(self.refused or self.sent_invalid)

    def has_room(self) -> bool:
        """Whether one more open line can be remembered."""
        return len(self.refused) + len(self.sent_invalid) < OPEN_LINES_MAX

    def is_done(self, number: int) -> bool:
        """Whether this line needs no further look."""
        return number <= self.lines and number not in self.refused and number not in self.sent_invalid

    def note(self, number: int, *, is_bad: bool, is_sent: bool) -> None:
        """What has become of a line now. A bad line that was sent before stays sent."""
        was_sent = number in self.sent_invalid
        self.sent += is_sent and not was_sent
        self.refused.discard(number)
        self.sent_invalid.discard(number)
        if is_bad:
            (self.sent_invalid if is_sent or was_sent else self.refused).add(number)


class ProgressFile:
    """The progress of one file to one destination; `with` keeps a second run of it away. Blocks briefly."""

    def __init__(self, folder: Path, source: UsageFile, destination: str) -> None:
        self._source = source.name
        self._path = folder / f"{_identity(source, destination)}.json"
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Raises UsageError where the folder cannot be written, or another run publishes this file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._not_kept(error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise UsageError(f"{self._source} is being published by another process: wait for its end") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        os.close(self._lock)

    def read(self) -> Progress:
        """Where to go on. An unreadable file means from the start: ids make that harmless."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Progress)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return Progress(self._source)

    def write(self, progress: Progress) -> None:
        """Atomic: a kill leaves the old or the new one. Raises UsageError where there is no room."""
        aside = self._path.with_suffix(".tmp")
        try:
            aside.write_bytes(msgspec.json.encode(progress))
            aside.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise self._not_kept(error) from error

    def _not_kept(self, error: OSError) -> UsageError:
        return UsageError(
            f"how far {self._source} has been published cannot be kept in {self._path.parent}: {error.strerror}. "
            "Mend that and run this again: what is sent twice counts once"
        )


def _identity(source: UsageFile, destination: str) -> str:
    """The same file, unchanged, to the same place. An edited file is a new one: it is read from its start."""
    first = sha256(source.first_bytes(FIRST_BYTES)).hexdigest()
    status = source.status
    identity = "\n".join((str(source.path), str(status.st_size), str(status.st_mtime_ns), first, destination))
    return sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
