"""What becomes of an error that a service did not ask for: counted, logged now and then, told or raised if asked."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Final, Literal

from meterstream.schema.errors import EventRejected, MeterstreamError

OnError = Literal["log", "raise"] | Callable[[MeterstreamError], None]
"""`log`: the caller goes on. `raise`: the call that met the error raises it. A function is told, and must not block."""

LOG_EVERY_S: Final = 60.0
KINDS_MAX: Final = 100
"""More of them are told as one."""
_VALUES: Final = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9]+")
"""Of a refusal: what it quotes of the caller's arguments."""
_log = logging.getLogger("meterstream.producers")


class Complaints:
    """Any thread."""

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self._logged: dict[str, tuple[float, int]] = {}

    def answer(self, what: str, error: MeterstreamError) -> None:
        """Of a call by the service: raises the error if that was asked for."""
        if self._on_error == "raise":
            raise error
        self.tell(what, error)

    def tell(self, what: str, error: MeterstreamError) -> None:
        """Of the work behind the calls, or where nothing is raised. `what`: the kind of error, a few of them."""
        kind = f"{what}: {_VALUES.sub('', str(error))}" if isinstance(error, EventRejected) else what
        self.log(what, error, kind)
        if callable(self._on_error):
            try:
                self._on_error(error)
            except (Exception, SystemExit) as raised:  # nor does it end the sender, whose thread this may be
                self.log("on_error has raised", repr(raised))

    def log(self, what: str, error: object, kind: str = "") -> None:
        """One warning a minute of each kind, with how many there were. `kind`: `what` without it."""
        kind = kind or what
        if kind not in self._logged and len(self._logged) >= KINDS_MAX:
            kind = what
        now = time.monotonic()
        logged_at, silent = self._logged.get(kind, (-LOG_EVERY_S, 0))
        if now - logged_at < LOG_EVERY_S:
            self._logged[kind] = (logged_at, silent + 1)  # two threads at once: one of them may go uncounted here
            return
        self._logged[kind] = (now, 0)
        more = f" ({silent} more of this kind in the last minutes)" if silent else ""
        _log.warning("%s: %s%s", what, error, more)
