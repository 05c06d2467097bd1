"""A fault of our own while one event is decided: that event is rejected, its neighbours go on. Pure but for the log.

Only what is wrong with the deciding itself is taken for a fault. Nothing of the code around which it is caught waits,
reads or writes, so no error of a server and no cancellation passes here; being out of memory is nobody's fault and goes
on up. (docs/adr/0006)
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from typing import Final

from meterstream.schema.errors import EventRejected

log = logging.getLogger(__name__)

INTERNAL_ERROR: Final = "internal_error"
KINDS_MAX: Final = 100
"""Kinds that are told apart; all others are one."""
_OTHERS: Final = "other faults"


def internal_error(fault: Exception) -> EventRejected:
    """The rejection of the event at which `fault` was raised, caused by it. Raises it again when it is no fault.

    The detail names kind and place, nothing of the event.
    """
    if isinstance(fault, MemoryError):
        raise fault
    rejected = EventRejected(INTERNAL_ERROR, f"a fault of the rater: {_kind(fault)}")
    rejected.__cause__ = fault
    return rejected


class Faults:
    """What has gone wrong since the process began. `reason` is None while nothing has: for the health.

    It stays until the process ends, since only another version of it mends a fault.
    """

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self.reason: str | None = None

    def note(self, fault: BaseException | None, place: str, *, is_private: bool) -> None:
        """Logs the fault at the event of `place`, with its traceback: of each kind the 1st, 10th, 100th, and so on.

        `is_private`: without the error's own words, in which a piece of the event may be.
        """
        name = "unknown" if fault is None else _kind(fault)
        kind = name if name in self._kinds or len(self._kinds) < KINDS_MAX else _OTHERS
        self._kinds[kind] += 1
        self.reason = (
            f"{self._kinds.total()} events met a fault of the rater and were rejected, the last one: {name}. See "
            '"Faults of the rater" in docs/operate.md'
        )
        number = self._kinds[kind]
        if str(number).rstrip("0") != "1":
            return
        said = f"{place} is rejected: a fault of the rater, not of the event; the others go on. {name}, number {number}"
        if fault is not None and is_private:
            said += "".join(("\n", *traceback.format_tb(fault.__traceback__)))
        log.error("%s", said, exc_info=None if is_private else fault)


def _kind(fault: BaseException) -> str:
    """`KeyError in meterstream.processors.rating.price:55`."""
    raised_at = fault.__traceback__
    while raised_at is not None and raised_at.tb_next is not None:
        raised_at = raised_at.tb_next
    if raised_at is None:
        return type(fault).__name__
    return f"{type(fault).__name__} in {raised_at.tb_frame.f_globals.get('__name__', '?')}:{raised_at.tb_lineno}"
