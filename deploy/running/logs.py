"""Logging of a role: one line a record, UTC, with the libraries' noise kept small.

As text for people, or, with `METERSTREAM_LOG_FORMAT=json`, one JSON object a line for whoever collects logs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from meterstream.schema.settings import LOG_FORMAT_VARIABLE

NOISY: Final = ("aiokafka", "kafka", "asyncio", "faust", "mode")
BYTES_MAX: Final = 8 << 20
RECORDS_MAX: Final = 20
WINDOW_S: Final = 10.0
ERROR_CHARS_MAX: Final = 300

_RECORD: Final = re.compile(r"\d{4}-\S+Z (?P<level>[A-Z]+) (?P<logger>\S+) (?P<text>.*)")
_FATAL: Final = ("ERROR", "CRITICAL")
_TRACEBACK: Final = "Traceback (most recent call last):"

Clock = Callable[[], float]


def configure(role: str) -> None:
    """Ours from INFO, libraries from WARNING, to standard error. Replaces what was set up before."""
    handler = LineHandler(sys.stderr)
    wanted = os.environ.get(LOG_FORMAT_VARIABLE)
    handler.setFormatter(JsonFormatter(role) if wanted == "json" else LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("meterstream").setLevel(logging.INFO)
    logging.getLogger("meterstream").info("%s begins, process %d", role, os.getpid())


class LineFormatter(logging.Formatter):
    """`2026-11-21T05:20:46.123Z INFO meterstream.roles text`.

    A message of several lines is joined to one; the lines of a traceback follow, indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        message = " | ".join(line.strip() for line in record.getMessage().splitlines())
        line = f"{_moment(record)} {record.levelname} {record.name} {message}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {part}" for part in trace.splitlines())
        return line


class JsonFormatter(logging.Formatter):
    """`{"at": ..., "level": ..., "logger": ..., "role": ..., "message": ..., "error": the traceback}`."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """See the class; `error` is there only with a traceback."""
        said = {
            "at": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "role": self._role,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_text(line: str) -> list[str]:
    """The lines that LineFormatter would have written for one of JsonFormatter; any other line as it is. Pure."""
    try:
        said = json.loads(line)
        message = " | ".join(part.strip() for part in said["message"].splitlines())
        first = f"{said['at']} {said['level']} {said['logger']} {message}"
        return [first, *(f"    {part}" for part in said.get("error", "").splitlines())]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [line]


def final_error(lines: Sequence[str], chars_max: int = ERROR_CHARS_MAX) -> str | None:
    """What a role that has ended said of its end: its last ERROR or exception; None where it said nothing. Pure.

    `lines` are of its log, from its start on, in either format. Errors of libraries do not count: they may have passed.
    """
    found: str | None = None
    is_own = False
    indent: str | None = None  # of the traceback that we are in
    for line in (part for each in lines for part in as_text(each)):
        record = _RECORD.match(line)
        if record:
            is_own, indent = record["logger"].startswith("meterstream") and record["level"] in _FATAL, None
            found = record["text"] if is_own else found
        elif line.lstrip(" ") == _TRACEBACK:
            is_the_interpreters = line == _TRACEBACK
            indent = line[: -len(_TRACEBACK)] if is_own or is_the_interpreters else None
        elif indent is not None and line.startswith(indent) and not line[len(indent) :].startswith(" "):
            found, indent = line.strip(), None
    if found is None or len(found) <= chars_max:
        return found
    return found[: chars_max - 1] + "…"


class Limiter:
    """Counts per key: at most `records_max` in `window_s`, and how many were held back."""

    def __init__(
        self, records_max: int = RECORDS_MAX, window_s: float = WINDOW_S, clock: Clock = time.monotonic
    ) -> None:
        self._records_max = records_max
        self._window_s = window_s
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}  # key -> (begin, records seen)

    def take(self, key: str) -> tuple[bool, int]:
        """(may this one pass, how many were held back in a window that has just ended)."""
        now = self._clock()
        begin, seen = self._windows.get(key, (now, 0))
        held_back = 0
        if now - begin >= self._window_s:
            held_back = max(0, seen - self._records_max)
            begin, seen = now, 0
        self._windows[key] = (begin, seen + 1)
        return seen < self._records_max, held_back


def cut(path: Path, bytes_max: int = BYTES_MAX) -> None:
    """Copies a log that has grown to `.1` and empties it: its writer appends, and goes on in the empty file."""
    if path.exists() and path.stat().st_size > bytes_max:
        with contextlib.suppress(OSError):  # a full disk is the best reason to empty it
            shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)


class LineHandler(logging.StreamHandler[TextIO]):
    """Lets through a bounded number of records of the noisy libraries, then one line with the count."""

    def __init__(self, stream: TextIO, limiter: Limiter | None = None) -> None:
        super().__init__(stream)
        self._limiter = limiter or Limiter()

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held."""
        library = record.name.partition(".")[0]
        if library not in NOISY:
            super().emit(record)
            return
        may_pass, held_back = self._limiter.take(library)
        if held_back:
            text = f"suppressed {held_back}"
            super().emit(logging.LogRecord(library, logging.WARNING, __file__, 0, text, None, None))
        if may_pass:
            super().emit(record)
