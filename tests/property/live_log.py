"""Generated priced logs: raters that die and send again, producers that do, late and early events, jumps in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from meterstream.processors.aggregation.checkpoint import encode_bucket, key_of
from meterstream.processors.aggregation.fold import Partition
from meterstream.schema.budget import Budget, checked
from meterstream.schema.money import NO_CURRENCY, to_decimal
from meterstream.schema.pack import (
    Coverage,
    Covered,
    Pack,
    Row,
    RowTuple,
    decode_coverage,
    decode_pack,
    encode_coverage,
    encode_pack,
)
from meterstream.schema.position import SourcePartition, position_of
from meterstream.schema.topics import partition_of
from tests.oracle.live import DAY, HOUR, MINUTE, LogRecord, LogRow, Plan

NUMBER = 5
"""The partition of usage.priced."""
TENANTS = [name for name in (f"tenant-{number}" for number in range(200)) if partition_of(name) == NUMBER][:6]
SILENT = 2
SOURCES = [(1, 0), (1, 1), (SILENT, 0)]
KNOWN = {1, SILENT}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEGIN_MS = (datetime(2026, 3, 27, 21, 30, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)
"""Two days before the clocks change, four before the month ends."""
ZONES = ["UTC", "Europe/Berlin", "Europe/London", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]


def time_of(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


@dataclass
class Mix:
    """How wild a log is."""

    records: int = 60
    jumps: bool = True
    """The clock leaps by hours and days."""
    late: bool = True
    future: bool = True
    """Imports are dated years ahead."""
    duplicates: float = 0.15
    sources: list[tuple[int, int]] = field(default_factory=lambda: SOURCES)
    huge: bool = True
    corrections: float = 0.1


@dataclass
class _Source:
    raw: list[LogRow] = field(default_factory=list)
    sent: int = 0
    """Rows that have been in a pack."""
    covered: int = 0
    """Kafka offset up to which everything is covered."""
    watermark: int = 0


class LogMaker:
    """Makes a log of `mix`, everything drawn from the seed."""

    def __init__(self, random: Random, mix: Mix) -> None:
        self._random = random
        self._mix = mix
        self._now = BEGIN_MS
        self._sources = {source: _Source() for source in mix.sources}
        self._rows: list[LogRow] = []

    def make(self) -> list[LogRecord]:
        log: list[LogRecord] = []
        while len(log) < self._mix.records:
            self._pass_time()
            dice = self._random.random()
            log += [self._coverage()] if dice < 0.15 else self._again() if dice < 0.3 else self._packs()
        return log

    def _pass_time(self) -> None:
        dice = self._random.random()
        if self._mix.jumps and dice < 0.03:
            self._now += self._random.choice([DAY, 3 * DAY, 20 * DAY])
        elif self._mix.jumps and dice < 0.2:
            self._now += self._random.randint(0, 3 * HOUR)
        else:
            self._now += self._random.randint(-500, 20_000)

    def _event(self, source: tuple[int, int], offset: int, index: int, appended: int) -> LogRow:
        random, mix = self._random, self._mix
        claim, event_id = random.randbytes(16), f"e{source[0]}.{source[1]}.{offset}.{index}"
        own = [row for row in self._sources[source].raw if row.appended_ms <= appended]
        if random.random() < mix.duplicates and own:
            other = random.choice(self._rows if mix.late else own)
            claim, event_id, tenant = other.claim, other.event_id, other.tenant
        else:
            tenant = random.choice(TENANTS)
        dice = random.random()
        occurred = appended - random.randint(0, 2000)
        if dice < 0.1:
            occurred = appended + random.choice([5 * MINUTE, random.randint(0, 5 * MINUTE)])
        elif mix.late and dice < 0.3:
            occurred = appended - random.choice([random.randint(0, 4 * HOUR), random.randint(0, 34 * DAY)])
        elif mix.future and source[0] == SILENT and dice < 0.4:
            occurred = appended + random.choice([6 * MINUTE, DAY, 40 * DAY, 3000 * DAY])
        currency = random.choice(["USD", "USD", "USD", "EUR", NO_CURRENCY])
        amount = None if currency == NO_CURRENCY else random.choice([0, 1, random.randint(0, 10**13), 5 * 10**12])
        if mix.huge and amount and random.random() < 0.2:
            amount = 10**18
        return LogRow(
            position_of(offset, index), claim, tenant, event_id, occurred, appended, random.choice(["openai", "other"]),
            random.choice(["a", "b", "c"]), random.choice(["", "p1", "p2"]), currency, amount, random.randint(0, 10**6),
            random.choice([0, 7, 2**53 - 1]), random.choice(["ok", "ok", "error"]),
        )  # fmt: skip

    def _packs(self) -> list[LogRecord]:
        """One flush of a rater. Where it holds too much for a pack, all of its packs have one watermark."""
        name = self._random.choice(self._mix.sources)
        source = self._sources[name]
        lo = source.covered << 20
        for _ in range(self._random.randint(1, 3)):
            source.covered += self._random.randint(0, 2)  # records of other partitions' tenants between
            appended = self._now + self._random.randint(0, 100)
            source.watermark = max(source.watermark, appended)
            for index in range(self._random.randint(1, 3)):
                row = self._event(name, source.covered, index, appended)
                source.raw.append(row)
                self._rows.append(row)
            source.covered += 1
        if self._mix.jumps and self._random.random() < 0.3:  # later records of other partitions' tenants
            self._now += self._random.randint(0, 2 * HOUR)
            source.covered += 1
            source.watermark = max(source.watermark, self._now)
        rows = source.raw[source.sent :]
        source.sent = len(source.raw)
        hi = (source.covered << 20) - 1
        if len(rows) < 2 or self._random.random() < 0.7:
            return [self._record(name, lo, hi, source.watermark, rows)]
        place = self._random.randint(1, len(rows) - 1)
        middle = rows[place].position
        return [
            self._record(name, lo, middle - 1, source.watermark, rows[:place]),
            self._record(name, middle, hi, source.watermark, rows[place:]),
        ]

    def _again(self) -> list[LogRecord]:
        """A rater that died or was paused sends a part again, cut otherwise."""
        name = self._random.choice(self._mix.sources)
        source = self._sources[name]
        if not source.covered:
            return []
        first = self._random.randint(max(0, source.covered - 12), source.covered - 1)
        end = self._random.randint(first + 1, source.covered)
        rows = [row for row in source.raw if first <= row.position >> 20 < end]
        watermark = max([row.appended_ms for row in rows], default=source.watermark)
        return [self._record(name, first << 20, (end << 20) - 1, watermark, rows)]

    def _coverage(self) -> LogRecord:
        parts = []
        for name in self._random.sample(self._mix.sources, self._random.randint(1, len(self._mix.sources))):
            source = self._sources[name]
            lo = source.covered << 20
            source.covered += self._random.randint(1, 3)
            source.watermark = max(source.watermark, self._now)
            parts.append((name, lo, (source.covered << 20) - 1, source.watermark))
        return LogRecord(False, tuple(parts), (), self._corrections())

    def _record(self, name: tuple[int, int], lo: int, hi: int, watermark: int, rows: list[LogRow]) -> LogRecord:
        return LogRecord(True, ((name, lo, hi, watermark),), tuple(rows), self._corrections())

    def _corrections(self) -> tuple[tuple[LogRow, int], ...]:
        if not self._rows or self._random.random() > self._mix.corrections:
            return ()
        row = self._random.choice(self._rows[-20:])
        return ((row, self._random.choice([-1, 10**11, -(10**13), 2**63, -(2**64)])),)


def make_plans(random: Random, count: int) -> list[Plan]:
    """Budgets of the log's tenants."""
    plans = []
    for number in range(count):
        period = random.choice(["day", "day", "week", "month"])
        plans.append(
            Plan(
                tenant=random.choice(TENANTS), name=f"b{number}", version=1, currency=random.choice(["USD", "EUR"]),
                amount=random.choice([3 * 10**12, 10**13, 7 * 10**13 + 1, 5 * 10**18]), period=period,
                time_zone=random.choice(ZONES), week_start=random.randint(1, 7) if period == "week" else 1,
                anchor_day=random.choice([1, 28, 29, 31]) if period == "month" else 1,
                percents=tuple(sorted(random.sample([1, 33, 50, 80, 100, 101, 250], random.randint(1, 4)))),
                project_id=random.choice([None, None, "p1"]), model=random.choice([None, None, "a"]),
            )
        )  # fmt: skip
    return plans


def budget_of(plan: Plan) -> Budget:
    return checked(
        tenant=plan.tenant, name=plan.name, version=plan.version, amount=to_decimal(plan.amount),
        currency=plan.currency, period=plan.period, time_zone=plan.time_zone, week_start=plan.week_start,
        anchor_day=plan.anchor_day, thresholds=plan.percents, project_id=plan.project_id, model=plan.model,
    )  # fmt: skip


def decoded(record: LogRecord) -> Pack | Coverage:
    """The record as it comes out of Kafka."""
    if not record.is_pack:
        return decode_coverage(encode_coverage([Covered(*part[0], *part[1:]) for part in record.parts]))
    source, lo, hi, watermark = record.parts[0]
    return decode_pack(encode_pack(SourcePartition(*source), lo, hi, [tuple_of(row) for row in record.rows], watermark))


def tuple_of(row: LogRow) -> RowTuple:
    pricing = "unpriced" if row.amount is None else "priced"
    return (
        row.position, row.claim, 0, row.tenant, row.event_id, "source", time_of(row.occurred_ms),
        time_of(row.appended_ms), row.provider, row.model, "chat", row.project_id, "user", "key", row.status, None,
        None, pricing, 1, row.currency, row.amount, row.input_tokens, row.output_tokens, 0, 0, 0,
    )  # fmt: skip


def product_row(row: LogRow) -> Row:
    """As `Partition.adjust` wants it."""
    pack = decode_pack(encode_pack(SourcePartition(1, 0), 0, row.position, [tuple_of(row)], 0))
    return pack.rows[0]


def whole_state(partition: Partition) -> dict[bytes, bytes]:
    """Every bucket as it is, as records of the state topic."""
    count = len(partition.buckets)
    return {key_of(partition.number, count, bucket): encode_bucket(partition, bucket) for bucket in range(count)}


class Log:
    """A log with its records decoded once."""

    def __init__(self, records: list[LogRecord]) -> None:
        self.records = records
        self._decoded = [decoded(record) for record in records]
        self._corrections = [[(product_row(row), amount) for row, amount in record.corrections] for record in records]

    def __len__(self) -> int:
        return len(self.records)

    def feed(self, partition: Partition) -> int:
        """Applies the partition's next record; returns its offset."""
        offset = partition.next_offset
        partition.apply(offset, self._decoded[offset])
        for row, amount in self._corrections[offset]:
            partition.adjust(offset, row, amount)
        return offset
