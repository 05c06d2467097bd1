"""`meterstream record`: one event that no service has sent, judged as the rater will before it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from meterstream.deploy.connections import resolve
from meterstream.deploy.kafka import client_options
from meterstream.deploy.pricing.dry_rating import DryRater, decoded, prices_of_raters
from meterstream.processors.rating.admit import AgeLimits, admit, age_limits
from meterstream.producers.made_event import UsageFields, make_event
from meterstream.producers.transport.kafka import KafkaTransport
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.errors import DeliveryFailed, EventRejected, MeterstreamError, UsageError
from meterstream.schema.ids import uuid7
from meterstream.schema.pack import Row
from meterstream.schema.settings import Settings
from meterstream.schema.topics import BACKFILL, RAW

ARRIVES_WITHIN: Final = timedelta(minutes=5)
"""Its age is judged when it arrives, by another clock: what is nearly too old for usage.raw goes to usage.backfill."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`topic`: where it goes: usage.raw where that takes its time, else usage.backfill. `time` is aware."""

    id: str
    time: datetime
    topic: str
    key: bytes
    value: bytes
    limits: AgeLimits


def make(
    fields: UsageFields,
    *,
    tenant: str,
    provider: str,
    source: str,
    event_id: str | None,
    time: datetime | None,
    now: datetime,
) -> Entry:
    """`time` (aware) None: `now`; without an id one is made. Raises UsageError with what is wrong and the fix."""
    happened = time or now
    now_ms = int(now.timestamp() * 1000)
    limits = age_limits(now_ms, is_backfill=False)
    topic = RAW if happened >= limits.oldest + ARRIVES_WITHIN else BACKFILL
    limits = age_limits(now_ms, is_backfill=topic == BACKFILL)
    try:
        made = make_event(source, tenant, provider, fields, event_id=event_id or uuid7(now), time=happened)
        admit(*decoded(made.value), limits)
    except EventRejected as rejected:
        raise UsageError(f"nothing was sent: {rejected}") from rejected
    return Entry(made.id, happened, topic, made.key, made.value, limits)


async def price(settings: Settings, entry: Entry) -> Row:
    """The row that a rater would make of it now. Blocks on the broker. Raises UsageError, Unreachable."""
    rater = DryRater(await prices_of_raters(settings))
    try:
        return rater.row(*decoded(entry.value), entry.limits)
    except EventRejected as rejected:
        raise UsageError(f"it would be rejected: {rejected}") from rejected


async def send(settings: Settings, entry: Entry) -> None:
    """Blocks until the broker has confirmed it. Raises MeterstreamError, Unreachable."""
    options = client_options(resolve(settings, ["kafka_bootstrap"]))
    try:
        async with KafkaTransport(options) as transport:
            await transport.send(entry.topic, entry.key, entry.value, STRUCTURED_HEADERS)
            await transport.flush()
    except DeliveryFailed as error:
        again = f"--id {entry.id} --time {entry.time.isoformat()}"
        raise MeterstreamError(f"{error}. It may have arrived: run this again with {again}, it counts once") from error
