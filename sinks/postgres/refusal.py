"""Which errors pass by themselves, and which come again with the same records: those end the sink.

A lost connection, a lock, a full disk, a refused login: whoever waits gets past them. A value that breaks a
constraint, a table that is not there, a right that is missing: whoever waits waits for ever, and everything
behind that record waits too. So such an error is believed when it comes twice in a row, the second time after
everything was dropped and read again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from meterstream.schema.errors import StoreRefused

_LASTING_CLASSES: Final = frozenset(
    {
        "22",  # data exception
        "23",  # a constraint; also a row without a leaf
        "42",  # what a statement names is not there, or not allowed
        "54",  # a limit of the server, such as the size of an index entry
        "P0",  # raised by a function of the schema
    }
)
_LASTING_STATES: Final = frozenset(
    {
        "0A000",  # COPY into a table with row security, by a role that is subject to it
        "3D000",  # no such database
        "3F000",  # no such schema
        "XX001",  # damaged data
        "XX002",  # damaged index
    }
)
_OURS: Final = (ValueError, TypeError, LookupError, ArithmeticError, struct.error)
"""What encoding a value raises, asyncpg's DataError included."""

_NOT_PREPARED: Final = frozenset({"42P01", "42703", "42883", "3D000", "3F000"})
_NOT_ALLOWED: Final = frozenset({"42501", "0A000"})

_COPIED_LINE: Final = re.compile(r"^COPY \w+, line (\d+)", re.MULTILINE)


def is_lasting(error: Exception) -> bool:
    """Whether the same records would meet the same error again."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return False  # a new session plans anew
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _LASTING_CLASSES or state in _LASTING_STATES
    return isinstance(error, _OURS)


def copied_line(error: asyncpg.PostgresError) -> int | None:
    """Which record of a COPY the server refused, counted from 0; None where it does not say."""
    match = _COPIED_LINE.search(error.context or "")
    return None if match is None else int(match[1]) - 1


class Refusals:
    """Remembers the last lasting error until something was stored. One for each sink."""

    def __init__(self) -> None:
        self._last: tuple[object, ...] | None = None

    @contextmanager
    def watched(self, records: str) -> Iterator[None]:
        """Raises StoreRefused where the body ends with a lasting error for the second time in a row.

        `records` says what the body was about to store.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, asyncpg.PostgresError):
                error.detail = None  # it quotes the row, and the error's text is shown
            if not is_lasting(error):
                raise
            identity = (type(error), getattr(error, "constraint_name", None), getattr(error, "table_name", None))
            if identity == self._last:
                raise StoreRefused(describe(error, records)) from error
            self._last = identity
            raise

    def clear(self) -> None:
        """Something was stored."""
        self._last = None


def describe(error: Exception, records: str) -> str:
    """What is refused, why, and what to do."""
    constraint, table = getattr(error, "constraint_name", None), getattr(error, "table_name", None)
    where = f" (constraint {constraint} of {table})" if constraint else ""
    place = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return (
        f"Postgres refuses {records}{place}: {type(error).__name__}: {error}{where}. "
        f"The same records meet it again: {_what_to_do(getattr(error, 'sqlstate', None))}, then start the sink again"
    )


def _what_to_do(state: str | None) -> str:
    if state in _NOT_PREPARED:
        return "bring the database to this version with `meterstream prepare`"
    if state in _NOT_ALLOWED:
        return "give the role its rights back, `meterstream prepare` shows how far they are"
    return "see docs/operate.md, `StoreRefused`"
