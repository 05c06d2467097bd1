"""Sends simulated records in order, as fast as the broker takes them or at a steady rate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from meterstream.producers.simulated import SimulatedRecord
from meterstream.producers.transport import Transport

RECORDS_PER_STEP: Final = 200
"""At most so many records are made before the loop may send."""


async def send_records(
    records: Iterable[SimulatedRecord],
    transport: Transport,
    *,
    rate: float | None = None,
    sent: Callable[[SimulatedRecord], None] = lambda record: None,
) -> int:
    """Sends all and waits for the acknowledgements; returns the number of events.

    `rate` is events a second, open loop: a broker that stalls is caught up with. `sent` is told each record.
    """
    clock = asyncio.get_running_loop().time
    begun = clock()
    events = 0
    for count, record in enumerate(records):
        wait = 0.0 if rate is None else begun + events / rate - clock()
        if wait > 0 or count % RECORDS_PER_STEP == 0:
            await asyncio.sleep(max(wait, 0))
        await transport.send(record.topic, record.key, record.value, record.headers)
        events += len(record.events)
        sent(record)
    await transport.flush()
    return events
