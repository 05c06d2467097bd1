"""Takes the bytes of a CSV file apart into rows: a quoted cell may hold ends of lines."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Final

from meterstream.producers.lines import Line, LineSplitter
from meterstream.schema.topics import EVENT_BYTES_MAX

NOT_CLOSED: Final = "a quote that is opened in this row is never closed; what follows it was not read"


@dataclass(frozen=True, slots=True)
class Dialect:
    """`delimiter` and `quote` are one ASCII character each; `quote` "": nothing is quoted."""

    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    """One in which ASCII is ASCII: ends of lines, delimiters and quotes are looked for in bytes."""

    def cells(self, row: Line) -> list[str]:
        """Raises ValueError with what is wrong and the fix."""
        if row.is_too_long:
            raise ValueError(f"the row is longer than {EVENT_BYTES_MAX:,} bytes, or {NOT_CLOSED}")
        try:
            text = row.content.decode(self.encoding)
        except UnicodeDecodeError as error:
            wrong = row.content[error.start]
            raise ValueError(
                f"byte {error.start + 1} of the row, 0x{wrong:02x}, is no {self.encoding}: "
                "name the file's `encoding`, such as latin-1 or cp1252"
            ) from None
        reader = csv.reader(
            (text,),
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            return next(reader, [])
        except csv.Error as error:
            said = NOT_CLOSED if "end of data" in str(error) else f"no CSV: {error}; see `format` of the map"
            raise ValueError(said) from None


class RowSplitter:
    """Feed it chunks of any size; numbers are those of rows, the header and empty ones included, from 1."""

    def __init__(self, dialect: Dialect) -> None:
        self._lines = LineSplitter()
        self._number = 0
        self._held: list[bytes] = []
        self._size = 0
        self._is_too_long = False
        self._end = 0
        quote, delimiter = (re.escape(text.encode()) for text in (dialect.quote, dialect.delimiter))
        self._quote = dialect.quote.encode()
        if self._quote:
            rest = rb"(?:[^Q]++|QQ)*+Q[^D]*+".replace(b"Q", quote).replace(b"D", delimiter)
            plain = rb"[^QD][^D]*+|".replace(b"Q", quote).replace(b"D", delimiter)
            cell = b"(?:" + quote + rest + b"|" + plain + b")"
            more = b"(?:" + delimiter + cell + b")*+"
            # A row that ends within a quote is the only one that does not match.
            self._is_whole = re.compile(cell + more, re.DOTALL).fullmatch
            self._is_rest = re.compile(rest + more, re.DOTALL).fullmatch

    def feed(self, chunk: bytes) -> list[Line]:
        """The rows that `chunk` completes."""
        return [row for line in self._lines.feed(chunk) if (row := self._take(line)) is not None]

    def finish(self) -> list[Line]:
        """The last row, when no end of line is behind it, or a quote is open."""
        rows = [row for line in self._lines.finish() if (row := self._take(line)) is not None]
        if self._held:
            rows.append(self._row(self._end))
        return rows

    def _take(self, line: Line) -> Line | None:
        self._end = line.end
        is_open = not line.is_too_long and self._is_open(line.content)
        self._size += len(line.content) + 1
        self._is_too_long |= line.is_too_long or self._size > EVENT_BYTES_MAX + 1
        if self._is_too_long:
            self._held = [b""]
        else:
            self._held.append(line.content)
        return None if is_open else self._row(line.end)

    def _is_open(self, content: bytes) -> bool:
        if not self._quote or (not self._held and self._quote not in content):
            return False
        return not (self._is_rest if self._held else self._is_whole)(content)

    def _row(self, end: int) -> Line:
        self._number += 1
        content = b"" if self._is_too_long else b"\n".join(self._held).removesuffix(b"\r")
        row = Line(self._number, end, content, self._is_too_long)
        self._held, self._size, self._is_too_long = [], 0, False
        return row
