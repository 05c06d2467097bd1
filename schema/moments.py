"""Moments and days as people write them. Pure."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def parse_moment(text: str) -> datetime:
    """'2024-10-02' (midnight UTC) or a full timestamp with its zone -> aware UTC. Raises ValueError with the fix."""
    if _DAY.fullmatch(text):
        return datetime.combine(parse_day(text), time(), UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 2024-10-02 or 2024-10-02T17:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no zone: add Z for UTC, or an offset such as +02:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is no time that UTC can express") from None


def parse_day(text: str) -> date:
    """'2024-10-02' -> date. Raises ValueError with the fix."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no day: write it as 2024-10-02") from None
