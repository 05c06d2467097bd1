"""What a published file is made of: lines that are events, or rows that become events."""

from __future__ import annotations

from typing import Protocol

from meterstream.producers.line_check import CheckedLine, check_line
from meterstream.producers.lines import Line, LineSplitter


class Splitter(Protocol):
    """Takes a stream of bytes apart into numbered pieces of bounded length."""

    def feed(self, chunk: bytes) -> list[Line]:
        """The pieces that `chunk` completes."""

    def finish(self) -> list[Line]:
        """What is left at the end of the stream."""


class Form(Protocol):
    """Piece by piece, in their order."""

    @property
    def needs_all(self) -> bool:
        """Whether what a piece means may depend on those before it: a later run then begins at the first."""

    def splitter(self, *, lines_before: int, bytes_before: int) -> Splitter:
        """For a stream of which so much has been read already."""

    def check(self, line: Line) -> CheckedLine | None:
        """The event of a piece, or what is wrong with it; None: it is none and need not be one."""

    def passed(self, line: Line) -> None:
        """Told of each piece that needs no check, because an earlier run has sent it."""


class EventLines:
    """One event in JSON a line."""

    needs_all = False

    def __init__(self, *, derive_ids: bool) -> None:
        self._derive_ids = derive_ids

    def splitter(self, *, lines_before: int, bytes_before: int) -> LineSplitter:
        """See `Form`."""
        return LineSplitter(lines_before=lines_before, bytes_before=bytes_before)

    def check(self, line: Line) -> CheckedLine:
        """See `Form`."""
        return check_line(line, derive_ids=self._derive_ids)

    def passed(self, line: Line) -> None:
        """Each line stands for itself: nothing is kept of it."""
