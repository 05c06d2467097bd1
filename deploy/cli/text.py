"""Words for people that several commands need."""

from __future__ import annotations

from datetime import UTC, datetime


def counted(number: int, noun: str) -> str:
    """`1 event`, `84,211 events`; for nouns whose plural has an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal would obey or could not show."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def never_seen(tenant: str) -> str:
    """What to say of a name of which nothing is known: most often it is mistyped."""
    return f"no event and no budget of tenant {printable(tenant)} was ever seen; names are compared exactly"


def utc(moment: datetime, precision: str = "auto") -> str:
    """Aware -> `2026-01-31T17:00:00Z`, with as many digits of the second as there are, or as `isoformat` names them."""
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
