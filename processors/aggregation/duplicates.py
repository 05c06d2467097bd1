"""Producers' re-sends: the claims of the latest rows of a priced partition. Pure, bounded.

The horizon is counted in rows of the log, so that it is the same for whoever reads the log: a function of
offsets, never of a clock or of when state was written. At r rows a second in the partition it lasts
65,536 / r seconds or more. What comes again later is counted twice here; Postgres knows ids for 45 days.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

SEGMENT_ROWS: Final = 8_192
SEGMENTS_KEPT: Final = 9
"""The oldest one is forgotten whole: at least 65,536 rows are known."""


class Horizon(NamedTuple):
    """Where reading must begin to know the same claims again."""

    offset: int
    """The record that holds the first row of the oldest segment kept."""
    rows: int
    """Rows of the partition before that record."""


class _Segment(NamedTuple):
    number: int
    begin: Horizon
    appended_ms: int
    claims: list[bytes]


class SeenClaims:
    """The claims of the last SEGMENTS_KEPT segments of the log; every row counts, repeats too."""

    def __init__(self, begin: Horizon = Horizon(0, 0)) -> None:  # noqa: B008 - immutable
        self._rows = begin.rows
        self._last: dict[bytes, int] = {}
        self._segments: deque[_Segment] = deque()
        self._record = begin
        self._appended_ms = 0
        # A first segment that is a rest of one has expired, as the whole one had, where the horizon was taken.
        self._segment_end = begin.rows

    @property
    def horizon(self) -> Horizon:
        """Of what is known now."""
        return self._segments[0].begin if self._segments else self._record

    @property
    def oldest_appended_ms(self) -> int | None:
        """Append time of the oldest row known, about; None when nothing is known."""
        return self._segments[0].appended_ms if self._segments else None

    def __len__(self) -> int:
        return len(self._last)

    def knows(self, claim: bytes) -> bool:
        """Whether it is known; it is not added."""
        return claim in self._last

    def add(self, offset: int, appended_ms: int, claims: Iterable[bytes]) -> list[bool]:
        """The claims of a record's rows, in order: True where one was known already; known it is afterwards."""
        self._record = Horizon(offset, self._rows)
        self._appended_ms = appended_ms
        last = self._last
        known: list[bool] = []
        for row, claim in enumerate(claims, self._rows):
            if row >= self._segment_end:
                self._begin_segment(row)
            segment = self._segments[-1]
            known.append(claim in last)
            last[claim] = segment.number
            segment.claims.append(claim)
        self._rows += len(known)
        return known

    def _begin_segment(self, row: int) -> None:
        number = row // SEGMENT_ROWS
        self._segments.append(_Segment(number, self._record, self._appended_ms, []))
        self._segment_end = (number + 1) * SEGMENT_ROWS
        while len(self._segments) > SEGMENTS_KEPT:
            expired = self._segments.popleft()
            for claim in expired.claims:
                if self._last.get(claim) == expired.number:
                    del self._last[claim]
