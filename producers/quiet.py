"""What aiokafka logs for a client of ours: forty lines a second while a broker is away. One a minute of a kind stays.

Only what the client's own tasks log is held back; another use of aiokafka in the same service logs as before.
"""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from typing import Final

LOG_EVERY_S: Final = 60.0
KINDS_MAX: Final = 1_000
LIBRARY: Final = "aiokafka"

_is_ours: ContextVar[bool] = ContextVar("meterstream_client", default=False)


class _OneAMinute(logging.Filter):
    """Of each text, without what is filled in."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not _is_ours.get():
            return True
        now = time.monotonic()
        if now - self._logged_at.get(str(record.msg), -LOG_EVERY_S) < LOG_EVERY_S:
            return False
        if len(self._logged_at) >= KINDS_MAX:
            self._logged_at.clear()
        self._logged_at[str(record.msg)] = now
        return True


_filter: Final = _OneAMinute()


def quieten() -> None:
    """For the task that calls it and every task that it starts."""
    _is_ours.set(True)
    for name in list(logging.Logger.manager.loggerDict):
        if name == LIBRARY or name.startswith(f"{LIBRARY}."):
            logging.getLogger(name).addFilter(_filter)  # once: a filter that is there is not added again
