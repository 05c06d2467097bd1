"""The stock Faust idiom of the same work: an agent per event, records, a tumbling table of hourly sums, a send.

In, one line: where to read, where to write, the rates. Out, one line: what the table holds when all events are in.
The agent asks for no more than Faust's documentation shows; nothing is tuned and nothing is private.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import datetime
from typing import Any

import faust
import msgspec

HOUR_S = 3600.0


class Arguments(msgspec.Struct, frozen=True):
    bootstrap: str
    app: str
    topic: str
    events: int
    output: str
    partitions: int
    folder: str
    rates: dict[str, dict[str, int]]


class Data(faust.Record):  # type: ignore[misc]
    """What was used."""

    provider: str
    model: str
    operation: str
    usage: dict[str, int]


class UsageEvent(faust.Record, coerce=True):  # type: ignore[misc, call-arg]
    """A usage event."""

    id: str
    source: str
    tenant: str
    time: datetime
    data: Data


class PricedEvent(faust.Record):  # type: ignore[misc]
    """A usage event with its charge."""

    id: str
    tenant: str
    model: str
    amount_pico: int


def price(usage: dict[str, int], rates: dict[str, int]) -> int:
    """Whole 1e-12 of the currency."""
    read, written = usage.get("cache_read_tokens", 0), usage.get("cache_write_tokens", 0)
    return (
        (usage["input_tokens"] - read - written) * rates["input"]
        + usage.get("output_tokens", 0) * rates["output"]
        + read * rates["cache_read"]
        + written * rates["cache_write"]
    )


def make_app(arguments: Arguments) -> faust.App:
    """The whole application."""
    app = faust.App(
        arguments.app,
        broker=f"kafka://{arguments.bootstrap}",
        store="memory://",
        topic_partitions=arguments.partitions,
        datadir=arguments.folder,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    raw = app.topic(arguments.topic, key_type=bytes, value_type=UsageEvent)
    priced = app.topic(arguments.output, value_type=PricedEvent)
    hourly = app.Table("hourly", default=int, partitions=arguments.partitions)
    sums = hourly.tumbling(HOUR_S).relative_to_field(UsageEvent.time)

    @app.agent(raw)  # type: ignore[untyped-decorator]
    async def rate(events: Any) -> None:
        seen = 0
        async for event in events:
            amount_pico = price(event.data.usage, arguments.rates[event.data.model])
            sums[f"{event.tenant}|{event.data.model}"] += amount_pico
            await priced.send(
                key=event.tenant,
                value=PricedEvent(id=event.id, tenant=event.tenant, model=event.data.model, amount_pico=amount_pico),
            )
            seen += 1
            if seen == arguments.events:
                asyncio.get_running_loop().call_later(0, end)

    def end() -> None:
        answer = {"events": arguments.events, "amount_pico": sum(hourly.data.values())}
        print(msgspec.json.encode(answer).decode(), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    return app


if __name__ == "__main__":
    app = make_app(msgspec.json.decode(sys.stdin.readline(), type=Arguments))
    faust.Worker(app, loglevel="WARN").execute_from_commandline()
