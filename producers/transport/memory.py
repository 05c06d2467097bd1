"""A broker that is a list: for the tests of a service that publishes usage."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from meterstream.schema.cloudevents import Headers


class SentRecord(NamedTuple):
    """As a topic would have it."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


class MemoryTransport:
    """Give it to a client as `transport`; after the client's `flush()` everything recorded is in `events`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[SentRecord] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to let go."""

    async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Keeps the record."""
        with self._lock:
            self._records.append(SentRecord(topic, key, value, headers))

    async def flush(self) -> None:
        """Everything is confirmed already."""

    @property
    def records(self) -> list[SentRecord]:
        """Everything that was sent, in order; an array of events is one record."""
        with self._lock:
            return list(self._records)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event that was sent, decoded. Those of one tenant are in the order in which they were recorded."""
        found: list[dict[str, Any]] = []
        for record in self.records:
            value = msgspec.json.decode(record.value)
            found += value if isinstance(value, list) else [value]
        return found

    def clear(self) -> None:
        """Forgets what was sent."""
        with self._lock:
            self._records.clear()
