"""Records and prices in; ledger, duplicates, rejected and rollups out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction

from tests.oracle.prices import Charge, Prices
from tests.oracle.records import RawRecord, Refused, slots_of
from tests.oracle.rules import Usage, admit

SOURCE_IDS = {"usage.raw": 1, "usage.backfill": 2}
CHARGE_MAX = 10**6
COLUMN_UNITS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


@dataclass(frozen=True, order=True)
class Place:
    """One position of one source partition."""

    source_id: int
    partition: int
    position: int


@dataclass(frozen=True)
class Line:
    """What one ledger row must say."""

    tenant: str
    event_id: str
    occurred_at: datetime
    currency: str
    amount: Fraction | None


@dataclass
class Sums:
    """One row of a rollup."""

    events: int = 0
    unpriced_events: int = 0
    amount: Fraction = Fraction(0)
    units: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(COLUMN_UNITS, Fraction(0)))

    def add(self, usage: Usage, charge: Charge) -> None:
        """One more event."""
        self.events += 1
        self.unpriced_events += charge.amount is None
        self.amount += charge.amount or 0
        for unit in COLUMN_UNITS:
            self.units[unit] += usage.quantities.get(unit, 0)


Key = tuple[object, ...]


@dataclass
class Expected:
    """Everything that must be in Postgres when every record has been worked off."""

    ledger: dict[Place, Line] = field(default_factory=dict)
    duplicates: set[Place] = field(default_factory=set)
    rejected: dict[Place, str] = field(default_factory=dict)
    hourly: dict[Key, Sums] = field(default_factory=dict)
    daily: dict[Key, Sums] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """How many positions have been judged."""
        return len(self.ledger) + len(self.duplicates) + len(self.rejected)


class SplitIdentity(Exception):
    """One event id in two source partitions: no order exists between them, so nobody can say which is first."""


def expect(records: Iterable[RawRecord], prices: Prices) -> Expected:
    """Judges every record. Records may come in any order; within a partition the offset decides who is first."""
    expected = Expected()
    first: dict[tuple[str, str, str], tuple[Place, Usage]] = {}
    for record in sorted(records, key=lambda record: (record.topic, record.partition, record.offset)):
        for slot in slots_of(record):
            place = Place(SOURCE_IDS[record.topic], record.partition, slot.position)
            usage = slot.content if isinstance(slot.content, Refused) else admit(record, slot.content)
            if isinstance(usage, Refused):
                expected.rejected[place] = usage.rule
                continue
            _judge(expected, first, place, usage, prices.charge(usage))
    return expected


def _judge(
    expected: Expected,
    first: dict[tuple[str, str, str], tuple[Place, Usage]],
    place: Place,
    usage: Usage,
    charge: Charge,
) -> None:
    if charge.amount is not None and charge.amount > CHARGE_MAX:
        expected.rejected[place] = "amount"
        return
    earlier = first.setdefault(usage.identity, (place, usage))
    if earlier[0] is place:
        expected.ledger[place] = Line(usage.tenant, usage.event_id, usage.occurred_at, charge.currency, charge.amount)
        _roll_up(expected, usage, charge)
        return
    if (earlier[0].source_id, earlier[0].partition) != (place.source_id, place.partition):
        raise SplitIdentity(f"{usage.identity} at {earlier[0]} and {place}")
    if earlier[1].body == usage.body:
        expected.duplicates.add(place)
    else:
        expected.rejected[place] = "conflict"


def _roll_up(expected: Expected, usage: Usage, charge: Charge) -> None:
    data = usage.data
    hour = usage.occurred_at.replace(minute=0, second=0, microsecond=0)
    what = (data["provider"], usage.model, *(data.get(name, "") for name in ("operation", "project_id")))
    who = tuple(data.get(name, "") for name in ("user_id", "api_key_id"))
    hourly: Key = (usage.tenant, hour, charge.currency, *what)
    daily: Key = (usage.tenant, hour.date(), charge.currency, *what, *who)
    expected.hourly.setdefault(hourly, Sums()).add(usage, charge)
    expected.daily.setdefault(daily, Sums()).add(usage, charge)
