"""Words for people that several commands need."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 event`, `84,211 events`; for nouns whose plural has an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal would obey or could not show."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
