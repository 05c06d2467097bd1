"""Takes a stream of bytes apart into lines of bounded length, numbered, with the place where each ends."""

from __future__ import annotations

from typing import NamedTuple

from meterstream.schema.topics import EVENT_BYTES_MAX


class Line(NamedTuple):
    """One line without its end."""

    number: int
    """Counted from 1."""
    end: int
    """Bytes from the beginning of the stream to the beginning of the next line."""
    content: bytes
    """Empty when the line is too long."""
    is_too_long: bool = False


class LineSplitter:
    """Feed it chunks of any size; it never holds more than one chunk and `EVENT_BYTES_MAX` bytes."""

    def __init__(self, *, lines_before: int = 0, bytes_before: int = 0) -> None:
        self._number = lines_before
        self._end = bytes_before
        self._held = b""
        self._dropped = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that `chunk` completes."""
        *complete, rest = chunk.split(b"\n")
        lines = [self._line(piece, newline=1) for piece in complete]
        self._hold(rest)
        return lines

    def finish(self) -> list[Line]:
        """The last line, when it has no newline at its end."""
        return [self._line(b"", newline=0)] if self._held or self._dropped else []

    def _line(self, piece: bytes, newline: int) -> Line:
        self._hold(piece)
        is_too_long = self._dropped > 0
        self._number += 1
        self._end += len(self._held) + self._dropped + newline
        line = Line(self._number, self._end, self._held, is_too_long)
        self._held, self._dropped = b"", 0
        return line

    def _hold(self, piece: bytes) -> None:
        """From the first byte above the bound on, bytes are counted and let go."""
        size = len(self._held) + len(piece)
        if self._dropped or size > EVENT_BYTES_MAX:
            self._held, self._dropped = b"", self._dropped + size
        else:
            self._held += piece
