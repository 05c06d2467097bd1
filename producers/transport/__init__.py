"""Where records go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from meterstream.schema.cloudevents import Headers


class Transport(Protocol):
    """`meterstream.producers.transport.kafka` in life, `meterstream.producers.transport.memory` in tests."""

    async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Hands one record over. May wait for room."""

    async def flush(self) -> None:
        """Returns when every record is confirmed."""


Connect = Callable[[], AbstractAsyncContextManager[Transport]]
"""Makes a connection; called again after a connection has failed. Raises MeterstreamError or OSError."""
