"""Sends rejected events again: first what would become of each, then, when asked, really.

An event keeps its id, so it is charged once however often it is sent. It goes to usage.raw where that takes its time,
else to usage.backfill, which raises no alerts.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from meterstream.deploy.connections import reader, resolve
from meterstream.deploy.intake import rejected
from meterstream.deploy.intake.rejected import Place, Rejection, Wanted
from meterstream.deploy.kafka import client_options
from meterstream.deploy.pricing.dry_rating import DryRater, prices_of_raters
from meterstream.processors.rating.admit import AgeLimits, age_limits
from meterstream.processors.rating.decode import decode_record
from meterstream.producers.edits import Edit, edited
from meterstream.producers.transport.kafka import KafkaTransport
from meterstream.schema import topics
from meterstream.schema.cloudevents import STRUCTURED_HEADERS, Headers
from meterstream.schema.errors import EventRejected, UsageError
from meterstream.schema.pack import Row
from meterstream.schema.settings import Settings
from meterstream.schema.units import COLUMN_UNITS
from meterstream.sinks.postgres.where import where

IS_CHARGED: Final = "charged already"
IS_GONE: Final = "gone"
AS_BEFORE: Final = "rejected"

SHOWN_DIGITS_MAX: Final = 30
_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode

Usage = Mapping[str, int | Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What would become of one event.

    `outcome`: priced, unpriced, unmetered; `rejected`, with the reason in `detail`; `charged already` under its id;
    `gone`: neither database nor topic hold all of it. `topic`: where to; None: it is not sent.
    """

    rejection: Rejection
    outcome: str
    detail: str = ""
    topic: str | None = None
    tenant: str = ""
    source: str = ""
    event_id: str = ""
    value: bytes = b""
    headers: Headers = ()
    amount_pico: int | None = None
    currency: str = ""
    usage_before: Usage = field(default_factory=dict)
    """As it was sent; what is no number of a sensible length is left out."""
    usage_after: Usage = field(default_factory=dict)
    """As it would be charged."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All of them, and what they change."""

    events: tuple[Planned, ...]

    @property
    def outcomes(self) -> Counter[str]:
        """How many of each."""
        return Counter(event.outcome for event in self.events)

    @property
    def amounts_pico(self) -> dict[str, int]:
        """Currency -> by how much the ledger's sum grows."""
        sums: defaultdict[str, int] = defaultdict(int)
        for event in self.events:
            if event.amount_pico is not None:
                sums[event.currency] += event.amount_pico
        return dict(sums)

    @property
    def usage_before(self) -> Usage:
        """Unit -> sum, of what would be sent."""
        return _sums(event.usage_before for event in self.events if event.topic is not None)

    @property
    def usage_after(self) -> Usage:
        """Likewise."""
        return _sums(event.usage_after for event in self.events if event.topic is not None)


async def plan(settings: Settings, wanted: Wanted, edits: Sequence[Edit] = ()) -> Plan:
    """Decides each as a rater would now, with the prices that raters have. Sends nothing.

    Blocks on database and broker. Raises UsageError, Unreachable.
    """
    settings = resolve(settings, ["kafka_bootstrap", "postgres_reader_dsn"])
    found = await rejected.find(settings, wanted)
    rater = DryRater(await prices_of_raters(settings))
    now_ms = time.time_ns() // 1_000_000
    ages = {topic: age_limits(now_ms, is_backfill=topic == topics.BACKFILL) for topic in (topics.RAW, topics.BACKFILL)}
    events = [await _planned(settings, rejection, rater, ages, edits) for rejection in found]
    return Plan(tuple([event if event.topic is None else await _unless_charged(settings, event) for event in events]))


async def send(settings: Settings, planned: Plan, note: str, by: str, edits: Sequence[Edit] = ()) -> int:
    """Sends what can be sent, then writes down that it was; returns how many.

    Killed between the two, or run twice: what came twice is a duplicate, charged once. Blocks until the broker has
    confirmed all. Raises DeliveryFailed, UsageError, Unreachable.
    """
    sent = [event for event in planned.events if event.topic is not None]
    if not sent:
        return 0
    settings = resolve(settings, ["kafka_bootstrap", "postgres_admin_dsn"])
    async with KafkaTransport(client_options(settings)) as transport:
        for event in sent:
            assert event.topic is not None
            await transport.send(event.topic, event.tenant.encode(), event.value, event.headers)
        await transport.flush()
    targets: dict[Place, str] = {event.rejection.place: event.topic for event in sent if event.topic is not None}
    rejections = [event.rejection for event in sent]
    said = [str(edit) for edit in edits]
    await rejected.settle(settings, rejections, "replayed", note, by, topics=targets, edits=said)
    return len(sent)


async def _planned(
    settings: Settings, rejection: Rejection, rater: DryRater, ages: dict[str, AgeLimits], edits: Sequence[Edit]
) -> Planned:
    there = await rejected.original(settings, rejection)
    if there is None:
        return Planned(rejection=rejection, outcome=IS_GONE, detail="its topic does not hold it any more")
    value, headers = there
    usage_before = _usage_sent(value, headers)
    try:
        value = edited(value, edits)
    except UsageError as error:
        return Planned(rejection=rejection, outcome=AS_BEFORE, detail=str(error))
    refused: EventRejected | None = None
    for topic, limits in ages.items():
        event, original = decode_record(value, headers)[0]
        try:
            if isinstance(event, EventRejected):
                raise event
            row = rater.row(event, original, limits)
        except EventRejected as again:
            refused = again
            continue
        return Planned(
            rejection=rejection,
            outcome=row.pricing,
            topic=topic,
            tenant=event.tenant,
            source=event.source,
            event_id=event.id,
            value=value,
            headers=headers,
            amount_pico=row.amount_pico,
            currency=row.currency,
            usage_before=usage_before,
            usage_after=_usage_of(row),
        )
    assert refused is not None
    return Planned(rejection=rejection, outcome=AS_BEFORE, detail=f"{refused.reason}: {refused.detail}")


def _usage_sent(value: bytes, headers: Headers) -> Usage:
    """Of an event that need not be one."""
    try:
        event = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidOperation):
        return {}
    data = event if headers != STRUCTURED_HEADERS else event.get("data") if isinstance(event, dict) else None
    usage = data.get("usage") if isinstance(data, dict) else None
    numbers: dict[str, int | Decimal] = {}
    for unit, quantity in usage.items() if isinstance(usage, dict) else ():
        is_number = isinstance(quantity, int | Decimal) and not isinstance(quantity, bool)
        if is_number and Decimal(quantity).adjusted() < SHOWN_DIGITS_MAX:
            numbers[unit] = quantity
    return numbers


def _usage_of(row: Row) -> Usage:
    columns = {unit: getattr(row, unit) for unit in COLUMN_UNITS if getattr(row, unit)}
    others: dict[str, Any] = _decode(row.quantities) if row.quantities else {}
    fractions = {unit: Decimal(quantity) for unit, quantity in others.items() if isinstance(quantity, str)}
    return columns | others | fractions


def _sums(usages: Iterable[Usage]) -> Usage:
    sums: defaultdict[str, int | Decimal] = defaultdict(int)
    for usage in usages:
        for unit, quantity in usage.items():
            sums[unit] += quantity
    return dict(sums)


async def _unless_charged(settings: Settings, event: Planned) -> Planned:
    async with reader(settings) as connection:
        found = await where(connection, event.event_id, tenant=event.tenant, source=event.source)
    if not found.charged:
        return event
    return Planned(rejection=event.rejection, outcome=IS_CHARGED, detail=f"as {found.charged[0].place}")
