"""What one flush of a partition sends, cut in one piece: alerts, aggregates, state. Pure.

The order of sending is alerts, then aggregates, then state; a bucket's state is cut only together with
everything that is to be published of it. So what a crash leaves behind in the state was published, and
what was not published is derived again from the log.

When budgets change is not in the log. So a version begins, and the one before it ends, with a cut: first the
bucket as it is before that is stored, then the version is taken, and only then an alert of it may leave. After
a crash it begins at that same place again, and its alerts say the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final, NamedTuple

from meterstream.processors.aggregation import checkpoint, snapshots
from meterstream.processors.aggregation.budgets import Rules
from meterstream.processors.aggregation.fold import BUCKETS, Bucket, Partition
from meterstream.processors.aggregation.windows import DAY_MS, HOUR_MS
from meterstream.schema.aggregate import WindowKind, budget_key, encode_aggregate, key_of, window_key
from meterstream.schema.alert import encode_alert

BUCKETS_A_FLUSH: Final = 2
BEHIND_RECORDS: Final = 64
BEHIND_ROWS: Final = 4_096
"""A bucket is stored when it is so much of the log behind: that much more a start reads, and each record stored is one
more that Faust reads until compaction takes it."""
STATE_BYTES_A_FLUSH: Final = 512 * 1024
"""Large buckets: fewer a flush. The lowest offset then lies further back, and a restart reads more."""


class Keyed(NamedTuple):
    """A record to send; value None is a tombstone."""

    key: bytes
    value: bytes | None


EncodedAlert = tuple[str, bytes]
"""(tenant, value)"""


class Cut(NamedTuple):
    """Everything of one flush. The lists are sent in this order, each acknowledged before the next."""

    offset: int
    alerts: list[EncodedAlert]
    beginnings: list[Keyed]
    """State of the buckets in which versions of budgets begin, as it is before they do."""
    begun: list[EncodedAlert]
    """Alerts of these versions."""
    aggregates: list[Keyed]
    state: list[Keyed]

    @property
    def is_empty(self) -> bool:
        return not any(self[1:])

    @property
    def stores(self) -> bool:
        """True where something of it goes to the state topic."""
        return bool(self.beginnings or self.state)


def cut(partition: Partition, rules: Rules | None = None, *, publishes_all: bool, writes_all: bool = False) -> Cut:
    """Cuts the alerts, the buckets that are furthest behind and what is new of their windows and budgets.

    `rules` hold from here on; None: those that the partition has. `publishes_all`: what is new of all other buckets
    too; `writes_all`: the state of all buckets, for the end. Nothing is cut, and no rule taken, before the partition is
    ready. What was cut is taken: where it cannot be sent, the partition is of no use any more.
    """
    if not partition.is_ready:
        return Cut(partition.next_offset, [], [], [], [], [])
    alerts = cut_alerts(partition)
    beginnings = [] if rules is None or rules is partition.rules else _begin(partition, rules)
    begun = cut_alerts(partition)
    dropped = _rebucket(partition)
    state = _state(partition, writes_all=writes_all)
    chosen = range(len(partition.buckets)) if publishes_all else [number for number, _ in state]
    aggregates = [*_gone(partition), *_budgets(partition, chosen), *_windows(partition, chosen)]
    if publishes_all and (aggregates or partition.published_offset < partition.next_offset):
        partition.published_offset = partition.next_offset
        progress = snapshots.progress(partition)
        aggregates.append(Keyed(key_of(progress), encode_aggregate(progress)))
    return Cut(partition.next_offset, alerts, beginnings, begun, aggregates, _keyed(partition, state) + dropped)


def _keyed(partition: Partition, state: list[tuple[int, bytes]]) -> list[Keyed]:
    buckets = len(partition.buckets)
    return [Keyed(checkpoint.key_of(partition.number, buckets, number), value) for number, value in state]


def _begin(partition: Partition, rules: Rules) -> list[Keyed]:
    """Takes the rules; returns what they begin from."""
    numbers = partition.buckets_to_begin(rules)
    records = _keyed(partition, [(number, checkpoint.encode_bucket(partition, number)) for number in numbers])
    partition.use(rules)
    return records


def cut_alerts(partition: Partition) -> list[EncodedAlert]:
    """The alerts alone, ahead of the next cut: send them before its state. None before the partition is ready."""
    if not partition.is_ready:
        return []
    alerts = [(reached.budget.tenant, encode_alert(snapshots.alert(reached))) for reached in partition.reached]
    partition.reached = []
    return alerts


def _rebucket(partition: Partition) -> list[Keyed]:
    """Deals out anew where the number of buckets has changed; the cut after that drops the old records."""
    # Not those that this very cut may write again.
    dropped = [Keyed(key, None) for key in partition.stale_keys if checkpoint.split_key(key)[1] != BUCKETS]
    partition.stale_keys = []
    old = len(partition.buckets)
    if old != BUCKETS:
        partition.split(BUCKETS)
        partition.stale_keys = [checkpoint.key_of(partition.number, old, number) for number in range(old)]
    return dropped


def _state(partition: Partition, *, writes_all: bool) -> list[tuple[int, bytes]]:
    """(bucket, record): those whose beginning is not stored, then those that are furthest behind."""
    buckets = partition.buckets
    count = len(buckets) if writes_all else BUCKETS_A_FLUSH
    numbers = [number for number, bucket in enumerate(buckets) if bucket.is_unsaved]
    behind = [
        number
        for number in heapq.nsmallest(count, range(len(buckets)), key=lambda number: buckets[number].folded)
        if not buckets[number].is_unsaved and _is_due(partition, buckets[number], at_once=writes_all)
    ]
    records: list[tuple[int, bytes]] = []
    size = 0
    for number in [*numbers, *behind]:
        if size > STATE_BYTES_A_FLUSH and not writes_all and not buckets[number].is_unsaved:
            break
        value = checkpoint.encode_bucket(partition, number)
        size += len(value)
        records.append((number, value))
        _mark_cut(partition, buckets[number])
    return records


def _is_due(partition: Partition, bucket: Bucket, *, at_once: bool) -> bool:
    records = partition.next_offset - bucket.folded
    if at_once:
        return records > 0
    return records >= BEHIND_RECORDS or (records > 0 and partition.claims.rows - bucket.folded_rows >= BEHIND_ROWS)


def _mark_cut(partition: Partition, bucket: Bucket) -> None:
    bucket.folded = partition.next_offset
    bucket.folded_rows = partition.claims.rows
    bucket.watermark_ms = partition.watermark_ms
    bucket.is_unsaved = False


def _gone(partition: Partition) -> list[Keyed]:
    lengths: dict[str, int] = {"hour": HOUR_MS, "day": DAY_MS}
    gone = [
        Keyed(window_key(tenant, _kind(kind), snapshots.moment(number * lengths[kind])), None)
        for tenant, kind, number in partition.gone
    ]
    gone += [Keyed(budget_key(tenant, name), None) for tenant, name in partition.gone_budgets]
    partition.gone, partition.gone_budgets = [], []
    return gone


def _kind(kind: str) -> WindowKind:
    return "hour" if kind == "hour" else "day"


def _budgets(partition: Partition, buckets: Sequence[int]) -> list[Keyed]:
    records = []
    for number in buckets:
        for tenant in partition.buckets[number].tenants.values():
            for counter in tenant.counters.values():
                if counter.is_dirty:
                    counter.is_dirty = False
                    state = snapshots.budget_state(partition, counter)
                    records.append(Keyed(key_of(state), encode_aggregate(state)))
    return records


def _windows(partition: Partition, buckets: Sequence[int]) -> list[Keyed]:
    records = []
    for number in buckets:
        for name, tenant in partition.buckets[number].tenants.items():
            if not tenant.windows.dirty:
                continue
            for kind, window_number in snapshots.windows_of_hours(tenant.windows.dirty):
                snapshot = snapshots.window(partition, name, tenant, kind, window_number)
                if snapshot is not None:
                    records.append(Keyed(key_of(snapshot), encode_aggregate(snapshot)))
            tenant.windows.dirty = set()
    return records
