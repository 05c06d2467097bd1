"""Tests only: where a role ends or pauses itself.

METERSTREAM_FAILPOINT=after_claims:3 kills it the third time it gets there; before_begin:3:stop pauses it until SIGCONT.
"""

from __future__ import annotations

import os
import signal
from typing import Final, NamedTuple

VARIABLE: Final = "METERSTREAM_FAILPOINT"
_SIGNALS: Final = {"": signal.SIGKILL, "stop": signal.SIGSTOP}


class _Point(NamedTuple):
    name: str
    left: int
    signal: signal.Signals


def _parse(text: str) -> _Point | None:
    name, _, rest = text.partition(":")
    count, _, action = rest.partition(":")
    return _Point(name, int(count or 1), _SIGNALS[action]) if name else None


_armed = _parse(os.environ.get(VARIABLE, ""))


def hit(name: str) -> None:
    """Sends the process its signal when this is the point, and the count has run out."""
    if _armed is not None and _armed.name == name:
        _count_down(_armed)


def _count_down(point: _Point) -> None:
    global _armed
    _armed = point._replace(left=point.left - 1) if point.left > 1 else None
    if _armed is None:
        os.kill(os.getpid(), point.signal)
