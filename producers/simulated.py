"""A record that a simulator made, together with the truth about it.

The truth is what the pipeline should find out by itself; tests and demos compare the two.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from meterstream.schema.cloudevents import Headers

Profile = Literal["lean", "full", "scattered"]
"""lean: the few fields of a model call; full: every attribute set; scattered: lean, with users and projects that no
tenant has more of than others: nearly every event has a combination of its own."""

Kind = Literal["new", "late", "unknown_model", "duplicate", "conflict", "malformed"]
"""`new`, `late` and `unknown_model` are charged or kept unpriced; a `duplicate` repeats an earlier event
byte for byte; a `conflict` reuses an earlier id with another body; `malformed` is refused."""


class SimulatedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as it was meant."""

    kind: Kind
    tenant: str
    source: str
    id: str
    time: datetime
    """Aware UTC."""
    provider: str
    model: str
    usage: dict[str, int]
    """unit -> inclusive total."""
    reason: str = ""
    """Why it must be refused: one of `meterstream.schema.rejection.REASONS`; empty when it must not."""


class SimulatedRecord(msgspec.Struct, frozen=True):
    """What is sent, and the events in it, in order."""

    topic: str
    key: bytes
    headers: Headers
    value: bytes
    events: tuple[SimulatedEvent, ...]
