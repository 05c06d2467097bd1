"""The records of `usage.aggregates`: what is live, as JSON, one per key, compacted.

Each says the offset of `usage.priced` that it holds at: it is the fold of everything before that offset
in that partition. Of two records with one key believe the one with the higher offset: a process that was
paused may send an older one late. A tombstone ends a key.

What an import dates more than five minutes ahead of its time is not in here; Postgres has it.

Amounts are decimal text of their currency; times are RFC 3339, UTC; ends are exclusive.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.money import AMOUNT_PATTERN

WindowKind = Literal["hour", "day"]
Amount = Annotated[str, msgspec.Meta(pattern=AMOUNT_PATTERN)]
"""Decimal text, exact; `meterstream.schema.money.parse_amount` reads it."""
Moment = Annotated[datetime, msgspec.Meta(tz=True)]

BUDGET_KEY_PREFIX: Final = b"budget/"
PROGRESS_KEY_PREFIX: Final = b"progress/"


class Sums(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was counted in one currency. Producers' re-sends within the horizon of ids are left out."""

    currency: str
    """`XXX` for events that have no price yet: they have no amount."""
    events: int
    errors: int = 0
    unpriced_events: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    amount: Amount | None = None
    """What the events cost; null where nothing has a price."""
    adjustment_amount: Amount | None = None
    """What corrections added; null where there was none."""


class ModelSums(Sums, frozen=True, kw_only=True, omit_defaults=True):
    """The part of one provider's model. `__other__`: models beyond those that are kept apart."""

    provider: str
    model: str


class Window(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="window", omit_defaults=True):
    """An event-time window of one tenant."""

    tenant: str
    window: WindowKind
    start: Moment
    end: Moment
    partition: int
    offset: int
    settled: bool
    """True: late events are not counted in here any more; Postgres' rollups still take them."""
    partial: bool = False
    """True: it may lack events, because counting began later or a part of the log was lost; Postgres has all of it."""
    totals: tuple[Sums, ...]
    """One entry a currency: different currencies are never added up."""
    models: tuple[ModelSums, ...]


class BudgetPeriod(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A period of a budget that late events still move."""

    start: Moment
    end: Moment
    spent: Amount
    provisional: bool = False
    """True: events of this period may have come before counting began, or were lost to it, and are not in `spent`."""


class BudgetState(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="budget", omit_defaults=True):
    """Where a budget stands in its current period."""

    tenant: str
    name: str
    version: int
    currency: str
    amount: Amount
    period: Literal["day", "week", "month"]
    time_zone: str
    period_start: Moment
    period_end: Moment
    """When it begins at zero again."""
    spent: Amount
    remaining: Amount
    """Negative when overspent."""
    percent: Amount
    """Of the amount, two places, cut."""
    thresholds: tuple[int, ...]
    reached: tuple[int, ...]
    """Thresholds that were reached in this period; a correction downwards does not take them back."""
    provisional: bool
    """True: events of this period may have come before counting began, or were lost to it, and are not in `spent`."""
    counts_since: Moment | None
    """Append time from which on every event is counted; null: all that ever came."""
    partition: int
    offset: int
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    provider: str | None = None
    model: str | None = None
    previous: BudgetPeriod | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="progress"):
    """Every change before `offset` of the partition has been published."""

    partition: int
    offset: int
    watermark: Moment
    """No event of the partition was appended later, as far as is known."""


Aggregate = Window | BudgetState | Progress

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Aggregate] = msgspec.json.Decoder(Aggregate)


def window_key(tenant: str, window: WindowKind, start: datetime) -> bytes:
    """The record key of a window; its tombstone has the same."""
    return f"window/{tenant}/{window}/{start:%Y-%m-%dT%H}".encode()


def budget_key(tenant: str, name: str) -> bytes:
    """The record key of a budget's state."""
    return BUDGET_KEY_PREFIX + f"{tenant}/{name}".encode()


def split_budget_key(key: bytes) -> tuple[str, str]:
    """The reverse of `budget_key`: -> (tenant, name). Raises RecordUnreadable."""
    # A tenant may have a slash in it, the name of a budget never has.
    tenant, _, name = key.removeprefix(BUDGET_KEY_PREFIX).rpartition(b"/")
    if not (key.startswith(BUDGET_KEY_PREFIX) and tenant and name):
        raise RecordUnreadable(f"not the key of a budget: {key[:64]!r}")
    try:
        return tenant.decode(), name.decode()
    except UnicodeDecodeError as error:
        raise RecordUnreadable(f"not the key of a budget: {key[:64]!r}") from error


def key_of(aggregate: Aggregate) -> bytes:
    """The record key."""
    match aggregate:
        case Window():
            return window_key(aggregate.tenant, aggregate.window, aggregate.start)
        case BudgetState():
            return budget_key(aggregate.tenant, aggregate.name)
        case Progress():
            return PROGRESS_KEY_PREFIX + str(aggregate.partition).encode()


def encode_aggregate(aggregate: Aggregate) -> bytes:
    """-> JSON."""
    return _encoder.encode(aggregate)


def decode_aggregate(value: bytes) -> Aggregate:
    """Raises RecordUnreadable."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise RecordUnreadable(f"not a record of usage.aggregates: {error}") from error
