"""Tells Prometheus where the roles of a folder answer: HOME/prometheus.json, in the format of `file_sd_configs`.

The supervisor keeps it: a role has a new port at each start. A role that has failed stays in it, so that it is seen
to be away; a folder whose roles were asked to stop has none.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from meterstream.deploy.running.health import read_all

FILE: Final = "prometheus.json"


class Targets:
    """What the file says. One writer a folder."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._home = str(home.resolve())
        self._host = socket.gethostname()
        self._known: dict[str, str] = {}
        self._written: bytes | None = None

    def refresh(self, roles: Iterable[str]) -> None:
        """Replaces the file where one of these roles answers elsewhere now. Raises OSError."""
        wanted = set(roles)
        for health in read_all(self._path.parent):
            if health.role in wanted and health.report is not None and health.report.endpoint is not None:
                self._known[health.role] = health.report.endpoint
        self._write()

    def withdraw(self) -> None:
        """Nobody answers any more, as was asked. Raises OSError."""
        self._known.clear()
        self._write()

    def _write(self) -> None:
        groups = [
            {"targets": [endpoint], "labels": {"instance": f"{role}@{self._host}", "home": self._home}}
            for role, endpoint in sorted(self._known.items())
        ]
        text = msgspec.json.encode(groups)
        if text != self._written:
            draft = self._path.with_name(f".{self._path.name}")
            draft.write_bytes(text)
            draft.replace(self._path)
            self._written = text
