"""CPU of `record` and `record_response` on the caller's thread, beside msgspec encoding the event of `record`.

`python -m` runs it.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, NoReturn

import msgspec

from meterstream.producers.buffer import Bounds
from meterstream.producers.client import MeterClient
from meterstream.producers.made_event import make_event

ROUNDS: Final = 10
RECORDS: Final = 5_000
CALL: Final[dict[str, Any]] = {
    "model": "gpt-4o-mini",
    "operation": "chat",
    "usage": {"input_tokens": 1200, "cache_read_tokens": 1000, "output_tokens": 80},
    "user_id": "user-07",
    "project_id": "support-bot",
    "latency_ms": 812,
}

ANSWER: Final[dict[str, Any]] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 80}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 1200,
        "completion_tokens": 80,
        "total_tokens": 1280,
        "prompt_tokens_details": {"cached_tokens": 1000, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
}


class _Away:
    """No broker: the sender sleeps, and the buffer takes everything."""

    async def __aenter__(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Never entered."""


def main() -> None:
    """Prints microseconds of CPU a call, the best of ten rounds, and how many encodings that is."""
    logging.getLogger("meterstream.producers").setLevel(logging.ERROR)  # that nothing is sent is meant
    event = msgspec.json.decode(make_event("bench", "acme", "openai", CALL, event_id=None, time=None).value)
    encode = msgspec.json.Encoder().encode
    encoding_us = _best_us(lambda: encode(event))
    print(f"{'msgspec encodes the event':32}{encoding_us:8.2f} µs")
    with tempfile.TemporaryDirectory() as folder:
        room = Bounds(memory_bytes_max=1 << 30, spool_bytes_max=1 << 30)
        clients = {
            "record, in memory": MeterClient("bench", transport=_Away, bounds=room),
            "record, in a spool": MeterClient("bench", transport=_Away, bounds=room, spool=folder),
        }
        for name, client in clients.items():
            _report(name, partial(client.record, tenant="acme", provider="openai", **CALL), encoding_us)
        respond = clients["record, in memory"].record_response
        _report("record_response, in memory", partial(respond, "openai", ANSWER, tenant="acme"), encoding_us)
        for client in clients.values():
            client.close(0)


def _report(name: str, call: Callable[[], object], encoding_us: float) -> None:
    record_us = _best_us(call)
    print(f"{name:32}{record_us:8.2f} µs{record_us / encoding_us:8.1f} times encoding")


def _best_us(call: Callable[[], object]) -> float:
    call()
    return min(_round_us(call) for _ in range(ROUNDS))


def _round_us(call: Callable[[], object]) -> float:
    begun = time.thread_time()
    for _ in range(RECORDS):
        call()
    return (time.thread_time() - begun) / RECORDS * 1e6


if __name__ == "__main__":
    main()
