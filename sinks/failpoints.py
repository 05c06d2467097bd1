"""Tests only: where a role kills itself. METERSTREAM_FAILPOINT=after_claims:3 is the third time it gets there."""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "METERSTREAM_FAILPOINT"


def _parse(text: str) -> tuple[str, int] | None:
    name, _, count = text.partition(":")
    return (name, int(count or 1)) if name else None


_armed = _parse(os.environ.get(VARIABLE, ""))


def hit(name: str) -> None:
    """Ends the process with SIGKILL when this is the point, and the count has run out."""
    if _armed is not None:
        _count_down(name)


def _count_down(name: str) -> None:
    global _armed
    assert _armed is not None
    wanted, count = _armed
    if name != wanted:
        return
    if count <= 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _armed = wanted, count - 1
