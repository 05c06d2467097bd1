"""What the live state must be, from the records of `usage.priced` alone. Shares no code with the product.

Slow and plain on purpose: one pass over everything, no buckets, no restart. The offsets of the fields are
those of the pack's contract.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

POSITION, CLAIM, TENANT, OCCURRED, PROVIDER, MODEL, PROJECT, USER, KEY, STATUS = 0, 1, 3, 6, 8, 9, 11, 12, 13, 14
CURRENCY, AMOUNT, INPUT, OUTPUT = 19, 20, 21, 22
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SEGMENT_ROWS, SEGMENTS_KEPT = 8192, 9
SILENT_SOURCE = 2


class PricedRecord(NamedTuple):
    """One record of usage.priced."""

    partition: int
    is_coverage: bool
    value: bytes


class Budget(NamedTuple):
    """What the model needs of a budget; amounts in pico."""

    tenant: str
    name: str
    version: int
    amount: int
    currency: str
    period: str
    zone: str
    percents: tuple[int, ...]
    scope: dict[int, str]
    """field of the row -> value"""


class Level(NamedTuple):
    """A level of a period that was reached."""

    tenant: str
    budget: str
    version: int
    period_start: datetime
    percent: int


@dataclass
class Sums:
    """Of one window."""

    events: int = 0
    errors: int = 0
    unpriced: int = 0
    input: int = 0
    output: int = 0
    amount: int = 0

    def add(self, row: list[Any]) -> None:
        self.events += 1
        self.errors += row[STATUS] != "ok"
        self.unpriced += row[AMOUNT] is None
        self.input += row[INPUT]
        self.output += row[OUTPUT]
        self.amount += row[AMOUNT] or 0


WindowKey = tuple[str, str, datetime, str, str, str]
"""(tenant, hour or day, start, provider, model, currency)"""


@dataclass
class Live:
    """The whole of it, over all partitions."""

    windows: dict[WindowKey, Sums] = field(default_factory=dict)
    spent: dict[tuple[str, str, datetime], int] = field(default_factory=lambda: defaultdict(int))
    reached: dict[Level, int] = field(default_factory=dict)
    """level -> spent at that event, pico"""
    watermarks: dict[int, datetime] = field(default_factory=dict)


def fold(records: Iterable[PricedRecord], budgets: Iterable[Budget]) -> Live:
    """Records in the order of their offsets within each partition."""
    live = Live()
    by_partition: dict[int, list[PricedRecord]] = defaultdict(list)
    for record in records:
        by_partition[record.partition].append(record)
    by_tenant: dict[str, list[Budget]] = defaultdict(list)
    for budget in budgets:
        by_tenant[budget.tenant].append(budget)
    for partition, log in by_partition.items():
        _fold_partition(partition, log, by_tenant, live)
    return live


def _fold_partition(partition: int, log: list[PricedRecord], budgets: dict[str, list[Budget]], live: Live) -> None:
    covered: dict[tuple[int, int], int] = defaultdict(lambda: -1)
    watermark = datetime(1970, 1, 1, tzinfo=UTC)
    seen: dict[bytes, int] = {}
    rows_read = 0
    windows: dict[WindowKey, Sums] = {}
    for record in log:
        content = msgspec.msgpack.decode(record.value)
        if record.is_coverage:
            for source_id, source, _, hi, watermark_ms in content[1]:
                covered[source_id, source] = max(covered[source_id, source], hi)
                watermark = max(watermark, _moment(watermark_ms))
            continue
        _, source_id, source, _, hi, rows, watermark_ms = content
        watermark = max(watermark, _moment(watermark_ms))
        for row in rows:
            segment = rows_read // SEGMENT_ROWS
            rows_read += 1
            is_known = seen.get(row[CLAIM], -SEGMENTS_KEPT) > segment - SEGMENTS_KEPT
            seen[row[CLAIM]] = segment
            if row[POSITION] > covered[source_id, source] and not is_known:
                _count(row, watermark, windows)
                if row[AMOUNT] is not None:
                    _spend(row, watermark, budgets.get(row[TENANT], ()), live, is_silent=source_id == SILENT_SOURCE)
        covered[source_id, source] = max(covered[source_id, source], hi)
    hour, day = _hour(watermark), _day(watermark)
    for key, sums in windows.items():
        if key[2] >= (hour - 2 * HOUR if key[1] == "hour" else day - 2 * DAY):
            live.windows[key] = sums
    live.watermarks[partition] = watermark


def _count(row: list[Any], watermark: datetime, windows: dict[WindowKey, Sums]) -> None:
    at = row[OCCURRED]
    names = row[PROVIDER], row[MODEL], row[CURRENCY]
    if _day(at) < _day(watermark) - DAY:
        return
    windows.setdefault((row[TENANT], "day", _day(at), *names), Sums()).add(row)
    if _hour(at) >= _hour(watermark) - HOUR:
        windows.setdefault((row[TENANT], "hour", _hour(at), *names), Sums()).add(row)


def _spend(row: list[Any], watermark: datetime, budgets: Iterable[Budget], live: Live, *, is_silent: bool) -> None:
    for budget in budgets:
        if row[CURRENCY] != budget.currency or any(row[place] != value for place, value in budget.scope.items()):
            continue
        start = period_start(row[OCCURRED], budget)
        previous = period_start(period_start(watermark, budget) - timedelta(seconds=1), budget)
        if start < previous:
            continue
        key = budget.tenant, budget.name, start
        live.spent[key] += row[AMOUNT]
        if is_silent:
            continue
        for percent in budget.percents:
            level = Level(budget.tenant, budget.name, budget.version, start, percent)
            if live.spent[key] * 100 >= budget.amount * percent and level not in live.reached:
                live.reached[level] = live.spent[key]


def period_start(at: datetime, budget: Budget) -> datetime:
    """Local midnight of the period's first day, as UTC; weeks begin on Monday, months on the first."""
    zone = ZoneInfo(budget.zone)
    local = at.astimezone(zone).date()
    first = {
        "day": local,
        "week": local - timedelta(days=local.weekday()),
        "month": date(local.year, local.month, 1),
    }[budget.period]
    return datetime(first.year, first.month, first.day, tzinfo=zone).astimezone(UTC)


def _moment(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _day(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
