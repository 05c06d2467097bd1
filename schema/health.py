"""What a role says of itself while it runs."""

from __future__ import annotations

from typing import Any, Literal, Protocol

State = Literal["starting", "running", "degraded", "draining", "failed", "stopped"]
"""`failed`: it has ended unasked and will be started again; its supervisor says so in its place."""


class Health(Protocol):
    """Where a role says how it is, about once a second; see `meterstream.deploy.running.health`."""

    def write(self, state: State, reason: str | None = None, lag_records: int | None = None, **detail: Any) -> None:
        """`reason` says why it is not simply running; `detail` holds `meterstream.schema.metrics`. Must not block."""
