"""Words for people that several commands need."""

from __future__ import annotations

from datetime import UTC, datetime


def counted(number: int, noun: str) -> str:
    """`1 event`, `84,211 events`; for nouns whose plural has an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal would obey or could not show."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def utc(moment: datetime, precision: str = "auto") -> str:
    """Aware -> `2026-01-31T17:00:00Z`, with as many digits of the second as there are, or as `isoformat` names them."""
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
