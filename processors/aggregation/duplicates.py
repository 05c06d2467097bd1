"""Producers' re-sends: the claims of the latest rows of a priced partition. Pure, bounded.

How far back they are known is a function of the log, the same for whoever reads it from wherever: rows and records
count, never a clock, nor when state was written. What comes again later is counted twice here; Postgres knows ids for
45 days.

Rows bound the memory, records bound what a start has to read: where little flows a record holds a row, or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final, NamedTuple

ROWS_KEPT: Final = 65_536
"""A claim is known at least until so many rows have come after it,"""
RECORDS_KEPT: Final = 4_096
"""or so many records of the partition, with or without rows."""
CHUNK_ROWS: Final = 4_096
CHUNK_RECORDS: Final = 256
"""Claims are forgotten a chunk at a time: a run of records that ends with the first that makes it as large as this."""


class Horizon(NamedTuple):
    """Where reading must begin to know the same claims again."""

    offset: int
    """The first record of the oldest chunk kept."""
    rows: int
    """Rows of the partition before that record."""


class _Chunk:
    __slots__ = ("appended_ms", "begin", "claims", "end", "number")

    def __init__(self, number: int, begin: Horizon, appended_ms: int) -> None:
        self.number = number
        self.begin = begin
        self.end = begin
        """Behind its last record."""
        self.appended_ms = appended_ms
        self.claims: list[bytes] = []


class SeenClaims:
    """The claims of the latest chunks of the log; every row counts, repeats too."""

    def __init__(self, begin: Horizon = Horizon(0, 0)) -> None:  # noqa: B008 - immutable
        """`begin`: a horizon; the next record is that, or where a hole is, a later one."""
        self._next = begin
        self._last: dict[bytes, int] = {}
        self._chunks: deque[_Chunk] = deque()
        self._number = 0

    @property
    def horizon(self) -> Horizon:
        """Of what is known now."""
        return self._chunks[0].begin if self._chunks else self._next

    @property
    def rows(self) -> int:
        """Rows of the partition so far."""
        return self._next.rows

    @property
    def oldest_appended_ms(self) -> int | None:
        """Append time of the oldest row known, about; None when nothing is known."""
        return self._chunks[0].appended_ms if self._chunks else None

    def __len__(self) -> int:
        return len(self._last)

    def knows(self, claim: bytes) -> bool:
        """Whether it is known; it is not added."""
        return claim in self._last

    def add(self, offset: int, appended_ms: int, claims: Collection[bytes]) -> list[bool]:
        """The claims of a record's rows, in order: True where one was known already; known it is afterwards.

        A record without rows is told with no claims: it brings what is known nearer to its end.
        """
        before = Horizon(offset, self._next.rows)
        self._forget(before)
        self._next = Horizon(offset + 1, before.rows + len(claims))
        if not claims:
            return []
        chunk = self._chunk_of(before, appended_ms)
        chunk.end = self._next
        chunk.claims += claims
        last, number = self._last, chunk.number
        known: list[bool] = []
        for claim in claims:
            known.append(claim in last)
            last[claim] = number
        return known

    def _chunk_of(self, record: Horizon, appended_ms: int) -> _Chunk:
        if self._chunks:
            chunk = self._chunks[-1]
            if record.rows - chunk.begin.rows < CHUNK_ROWS and record.offset - chunk.begin.offset < CHUNK_RECORDS:
                return chunk
        self._number += 1
        self._chunks.append(_Chunk(self._number, record, appended_ms))
        return self._chunks[-1]

    def _forget(self, record: Horizon) -> None:
        while self._chunks:
            end = self._chunks[0].end
            if record.rows - end.rows < ROWS_KEPT and record.offset - end.offset < RECORDS_KEPT:
                return
            expired = self._chunks.popleft()
            for claim in expired.claims:
                if self._last.get(claim) == expired.number:
                    del self._last[claim]
