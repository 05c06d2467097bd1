"""A service in a process of its own, for tests that kill it: records calls, and its broker is a file.

Arguments: spool folder, the broker's file, the file of the ids that record() has returned, how many calls, the number
of the first. While `<broker's file>.away` exists, the broker takes nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from meterstream.producers import Bounds, MeterClient
from meterstream.schema.cloudevents import Headers
from meterstream.schema.errors import Unreachable

SEGMENT_BYTES = 4096


class FileBroker:
    """Keeps records as a broker does: what was written stays, whoever dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._away = path.with_name(path.name + ".away")
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stays open."""

    async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        self._check()
        os.write(self._descriptor, value + b"\n")

    async def flush(self) -> None:
        self._check()

    def _check(self) -> None:
        if self._away.exists():
            raise Unreachable("the broker is away")


def main(spool: Path, broker: Path, recorded: Path, calls: int, first: int) -> None:
    ids = os.open(recorded, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    file_broker = FileBroker(broker)
    bounds = Bounds(segment_bytes=SEGMENT_BYTES)
    with MeterClient("service", transport=lambda: file_broker, spool=spool, bounds=bounds) as client:
        for number in range(first, first + calls):
            event_id = client.record(
                tenant=f"tenant-{number % 3}", provider="openai", operation="chat", usage={"requests": number}
            )
            os.write(ids, f"{event_id}\n".encode())
            if number % 50 == 49:
                client.flush(0.2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
