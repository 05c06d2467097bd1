"""How far a file has been published: one small file beside the data, written only after acknowledgements."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

FIRST_BYTES: Final = 64 * 1024


class Progress(msgspec.Struct, frozen=True):
    """Everything up to `offset` has been dealt with: confirmed by the broker, or refused."""

    path: str
    lines: int = 0
    offset: int = 0
    """Bytes, after decompression."""
    sent: int = 0
    refused: int = 0
    is_complete: bool = False


class ProgressFile:
    """The progress of one file to one destination. Reads and writes block briefly."""

    def __init__(self, folder: Path, source: Path, destination: str) -> None:
        self._source = source
        self._path = folder / f"{_identity(source, destination)}.json"

    def read(self) -> Progress:
        """Where to go on. An unreadable file means from the start: ids make that harmless."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Progress)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return Progress(str(self._source))

    def write(self, progress: Progress) -> None:
        """Atomic: a kill leaves the old or the new one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(f".{os.getpid()}.tmp")
        aside.write_bytes(msgspec.json.encode(progress))
        aside.replace(self._path)


def _identity(source: Path, destination: str) -> str:
    """The same file, unchanged, to the same place. An edited file is a new one: it is read from its start."""
    stat = source.stat()
    with source.open("rb") as file:
        first = sha256(file.read(FIRST_BYTES)).hexdigest()
    identity = "\n".join((str(source.resolve()), str(stat.st_size), str(stat.st_mtime_ns), first, destination))
    return sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
