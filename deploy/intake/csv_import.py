"""`meterstream import csv`: rows judged as a rater will judge them, and what they would come to."""

from __future__ import annotations

import codecs
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Final

from meterstream.deploy.pricing.dry_rating import DryRater, decoded
from meterstream.processors.rating.admit import AgeLimits, admit, age_limits
from meterstream.processors.rating.book import Book
from meterstream.producers.chunks import CHUNK_BYTES
from meterstream.producers.csv_events import CsvRows, Judge
from meterstream.producers.csv_map import CsvMap
from meterstream.producers.lines import Line
from meterstream.producers.usage_file import UsageFile
from meterstream.schema import pack
from meterstream.schema.errors import UsageError

FIRST_SHOWN: Final = 3
ROWS_SHOWN_MAX: Final = 10
REASONS_MAX: Final = 50
"""Rows that are refused for a further reason are counted together."""
OTHER: Final = "other reasons"

_EXACT: Final = Context(prec=60)
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9]+")


@dataclass
class Refused:
    """Rows that are refused for one reason, as it was said of the first: how many, and the first ones."""

    problem: str
    count: int = 0
    rows: list[int] = field(default_factory=list)


@dataclass
class DryRun:
    """What an import would do, by the prices that raters have now."""

    rows: int = 0
    """Header and empty ones included."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Of good rows: priced, unpriced, unmetered."""
    repeated: int = 0
    """Rows with the id and content of one before: counted once."""
    conflicts: int = 0
    """Rows with the id of one before and other content: rejected."""
    refused: dict[str, Refused] = field(default_factory=dict)
    """By the reason without what the rows say themselves."""
    usage: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    amounts_pico: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By currency."""
    first: list[bytes] = field(default_factory=list)
    """Events, as they would be sent."""

    @property
    def refused_rows(self) -> int:
        return sum(refused.count for refused in self.refused.values())


def judge(now: datetime) -> Judge:
    """Says what a rater would say of an event that arrives in usage.backfill at `now` (aware)."""
    limits = _limits(now)

    def judged(value: bytes) -> None:
        admit(*decoded(value), limits)

    return judged


def dry_run(path: str, csv_map: CsvMap, book: Book, now: datetime) -> DryRun:
    """Reads the whole file and sends nothing. Blocks on the file. Raises UsageError where it does not fit the map.

    Memory grows by some 150 bytes a row, to tell rows with one id.
    """
    found = DryRun()
    with closing(UsageFile(path)) as file:
        rated = _Rated(found, DryRater(book), _limits(now))
        rows = CsvRows(csv_map, file.name, rated)
        for row in _rows(file, rows):
            found.rows = row.number
            checked = rows.check(row) if row.is_too_long or row.content.strip() else None
            if checked is not None and checked.problem:
                _refuse(found, row.number, checked.problem)
    return found


def _rows(file: UsageFile, rows: CsvRows) -> Iterator[Line]:
    splitter = rows.splitter(lines_before=0, bytes_before=0)
    try:
        while chunk := file.stream.read(CHUNK_BYTES):
            for row in splitter.feed(chunk):
                yield row._replace(content=row.content.removeprefix(codecs.BOM_UTF8)) if row.number == 1 else row
    except (OSError, EOFError) as error:
        raise UsageError(f"{file.name} cannot be read to its end: {error}") from error
    yield from splitter.finish()


class _Rated:
    """A `Judge` that adds up what it sees."""

    def __init__(self, found: DryRun, rater: DryRater, limits: AgeLimits) -> None:
        self._found = found
        self._rater = rater
        self._limits = limits
        self._bodies: dict[bytes, int] = {}

    def __call__(self, value: bytes) -> None:
        found = self._found
        event, original = decoded(value)
        row = self._rater.row(event, original, self._limits)
        if len(found.first) < FIRST_SHOWN:
            found.first.append(value)
        before = self._bodies.get(row.claim)
        if before is not None:
            found.repeated += before == row.body
            found.conflicts += before != row.body
            return
        self._bodies[row.claim] = row.body
        found.statuses[row.pricing] += 1
        if row.pricing == pack.PRICED and row.amount_pico is not None:
            found.amounts_pico[row.currency] += row.amount_pico
        for unit, quantity in event.data.usage.items():
            found.usage[unit] = _EXACT.add(found.usage[unit], Decimal(quantity))


def _limits(now: datetime) -> AgeLimits:
    return age_limits(int(now.astimezone(UTC).timestamp() * 1000), is_backfill=True)


def _refuse(found: DryRun, number: int, problem: str) -> None:
    kind = _QUOTED.sub("…", problem)
    if kind not in found.refused and len(found.refused) >= REASONS_MAX:
        kind = problem = OTHER
    refused = found.refused.setdefault(kind, Refused(problem))
    refused.count += 1
    if len(refused.rows) < ROWS_SHOWN_MAX:
        refused.rows.append(number)
