"""The stock Faust idiom of the aggregator's work: an agent per event, tumbling tables, an alert for each level.

The tables: hours and days by tenant and model, and what each tenant has spent. With `rates` it does the rater's work
too: it reads usage events, prices them and sends each. Without, it reads priced events, as the first has sent them.
Nothing is tuned and nothing is private.
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
from faust_idiom import HOUR_S, UsageEvent, price  # type: ignore[import-not-found]

DAY_S = 24 * HOUR_S


class Arguments(msgspec.Struct, frozen=True):
    bootstrap: str
    app: str
    topic: str
    events: int
    output: str
    """Of priced events; '' when they are read."""
    alerts: str
    partitions: int
    folder: str
    rates: dict[str, dict[str, int]]
    levels_pico: list[int]
    """Of every tenant."""


class PricedEvent(faust.Record, coerce=True):  # type: ignore[misc, call-arg]
    """A usage event with its charge."""

    id: str
    tenant: str
    model: str
    time: datetime
    amount_pico: int


class Alert(faust.Record):  # type: ignore[misc]
    """A level was reached."""

    tenant: str
    level_pico: int
    spent_pico: int


def make_app(arguments: Arguments) -> faust.App:  # noqa: C901 - an agent needs its app's tables
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
    alerts = app.topic(arguments.alerts, value_type=Alert)
    hourly = app.Table("hourly", default=int, partitions=arguments.partitions)
    daily = app.Table("daily", default=int, partitions=arguments.partitions)
    spent = app.Table("spent", default=int, partitions=arguments.partitions)
    value_type: Any = UsageEvent if arguments.rates else PricedEvent
    hours = hourly.tumbling(HOUR_S).relative_to_field(value_type.time)
    days = daily.tumbling(DAY_S).relative_to_field(value_type.time)
    seen = 0

    async def count(tenant: str, model: str, amount_pico: int) -> None:
        nonlocal seen
        hours[f"{tenant}|{model}"] += amount_pico
        days[f"{tenant}|{model}"] += amount_pico
        before = spent[tenant]
        after = spent[tenant] = before + amount_pico
        for level in arguments.levels_pico:
            if before < level <= after:
                await alerts.send(key=tenant, value=Alert(tenant=tenant, level_pico=level, spent_pico=after))
        seen += 1
        if seen == arguments.events:
            asyncio.get_running_loop().call_later(0, end)

    def end() -> None:
        answer = {
            "events": arguments.events,
            "amount_pico": sum(hourly.data.values()),
            "daily_pico": sum(daily.data.values()),
            "spent_pico": sum(spent.data.values()),
        }
        print(msgspec.json.encode(answer).decode(), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    source = app.topic(arguments.topic, key_type=bytes, value_type=value_type)
    if arguments.rates:
        priced = app.topic(arguments.output, value_type=PricedEvent)

        @app.agent(source)  # type: ignore[untyped-decorator]
        async def rate(events: Any) -> None:
            async for event in events:
                amount_pico = price(event.data.usage, arguments.rates[event.data.model])
                await priced.send(
                    key=event.tenant,
                    value=PricedEvent(
                        id=event.id,
                        tenant=event.tenant,
                        model=event.data.model,
                        time=event.time,
                        amount_pico=amount_pico,
                    ),
                )
                await count(event.tenant, event.data.model, amount_pico)

    else:

        @app.agent(source)  # type: ignore[untyped-decorator]
        async def aggregate(events: Any) -> None:
            async for event in events:
                await count(event.tenant, event.model, event.amount_pico)

    return app


if __name__ == "__main__":
    app = make_app(msgspec.json.decode(sys.stdin.readline(), type=Arguments))
    faust.Worker(app, loglevel="WARN").execute_from_commandline()
