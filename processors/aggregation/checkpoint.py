"""A bucket as a record of the state topic, and back.

A record holds everything that is needed to go on from its offset: it is written by one partition's owner,
and may be read by another version: version N reads N and N-1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from meterstream.processors.aggregation.budgets import Counter, Rules, Spent
from meterstream.processors.aggregation.duplicates import Horizon
from meterstream.processors.aggregation.fold import Bucket, Partition, Tenant
from meterstream.processors.aggregation.windows import DAY_MS, HOUR_MS, HOURS_A_DAY, Floors, Leaf
from meterstream.schema.coverage import Prefix
from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.position import SourcePartition

STATE_VERSION: Final = 1

Wide = int | str
"""An integer; as text where msgpack's 64 bits end."""
_WIDE_MAX: Final = (1 << 63) - 1

_Windows = Sequence[Sequence[Wide]]
"""[number, *counters]"""
_PackWindows = Callable[[Iterable[tuple[int, list[int]]]], _Windows]


class _Leaf(msgspec.Struct, array_like=True, gc=False):
    provider: str
    model: str
    currency: str
    hours: _Windows
    days: _Windows


class CounterRecord(msgspec.Struct, array_like=True, gc=False):
    """One version of one budget."""

    name: str
    version: int
    spec: bytes
    complete_from_ms: int
    spent: list[tuple[int, Wide, int]]
    """(a moment of the period, pico, levels reached)"""
    until_ms: int = 0
    next_version: int = 0


class _Tenant(msgspec.Struct, array_like=True, gc=False):
    name: str
    leaves: list[_Leaf]
    minutes: list[tuple[str, _Windows]]
    counters: list[CounterRecord]
    held_from_ms: int | None = None
    """None: an earlier version wrote it."""
    followed: list[CounterRecord] = []


class BucketRecord(msgspec.Struct, array_like=True, gc=False):
    """One bucket of one partition, folded up to `folded`."""

    version: int
    folded: int
    prefixes: list[tuple[int, int, int, int]]
    """(source_id, source partition, position, watermark_ms)"""
    watermark_ms: int
    horizon: Horizon
    complete_from_ms: int
    has_rows: bool
    """For earlier versions: whether any event of its tenants has come."""
    tenants: list[_Tenant]
    held_from_ms: int | None = None
    """None: an earlier version wrote it."""
    lost_from_ms: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(BucketRecord)


def key_of(partition: int, buckets: int, bucket: int) -> bytes:
    """The key of a bucket's record."""
    return f"{partition}|{buckets}|{bucket}".encode()


def split_key(key: bytes) -> tuple[int, int, int]:
    """-> (partition, number of buckets, bucket). Raises RecordUnreadable."""
    try:
        partition, buckets, bucket = key.decode().split("|")
        return int(partition), int(buckets), int(bucket)
    except ValueError as error:
        raise RecordUnreadable(f"not a key of the aggregator's state: {key[:64]!r}") from error


def encode_bucket(partition: Partition, number: int) -> bytes:
    """The bucket as it is at the partition's `next_offset`."""
    try:
        return _encoder.encode(_record(partition, number, _plain_windows))
    except OverflowError:  # somebody's amounts
        return _encoder.encode(_record(partition, number, _wide_windows))


def _record(partition: Partition, number: int, pack_windows: _PackWindows) -> BucketRecord:
    bucket = partition.buckets[number]
    return BucketRecord(
        STATE_VERSION,
        partition.next_offset,
        [(*source, *prefix) for source, prefix in partition.prefixes.items()],
        partition.watermark_ms,
        partition.claims.horizon,
        partition.complete_from_ms,
        bucket.held_from_ms > 0
        or any(tenant.windows.leaves or tenant.held_from_ms for tenant in bucket.tenants.values()),
        [_pack_tenant(name, tenant, partition.floors, pack_windows) for name, tenant in bucket.tenants.items()],
        bucket.held_from_ms,
        partition.lost_from_ms,
    )


def encode_record(record: BucketRecord) -> bytes:
    """The reverse of `decode_bucket`."""
    return _encoder.encode(record)


def decode_bucket(value: bytes) -> BucketRecord:
    """Raises RecordUnreadable."""
    try:
        record = _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RecordUnreadable(f"not a bucket of the aggregator's state: {error}") from error
    if record.version not in (STATE_VERSION, STATE_VERSION - 1):
        raise RecordUnreadable(
            f"state format {record.version}, but this version reads {STATE_VERSION - 1} and {STATE_VERSION}: "
            "an older aggregator must not follow a newer one"
        )
    return record


def choose(stored: Mapping[bytes, bytes], partition: int) -> list[BucketRecord | None]:
    """The records of a partition, by bucket; None where there is none. Raises RecordUnreadable.

    The number of buckets may have been changed: of several sets that of the highest low offset is the best. All of
    them are true.
    """
    sets: dict[int, dict[int, BucketRecord]] = {}
    for key, value in stored.items():
        of, buckets, bucket = split_key(key)
        if of == partition:
            sets.setdefault(buckets, {})[bucket] = decode_bucket(value)
    if not sets:
        return []

    def low(buckets: int) -> int:
        records = sets[buckets]
        return min(record.folded for record in records.values()) if len(records) == buckets else 0

    best = max(sorted(sets), key=low)
    return [sets[best].get(bucket) for bucket in range(best)]


def stale_keys(stored: Mapping[bytes, bytes], partition: int, buckets: int) -> list[bytes]:
    """Of records of the partition in other numbers of buckets: a process that dealt out anew has left them behind."""
    places = {key: split_key(key) for key in stored}
    return [key for key, (of, count, _) in places.items() if of == partition and count != buckets]


def restore(
    number: int,
    records: list[BucketRecord | None],
    rules: Rules,
    *,
    known_sources: Collection[int],
    silent_sources: Collection[int],
    retired_sources: Collection[int] = (),
) -> Partition:
    """The partition as the records say; a bucket without one has folded nothing. `use` the rules next."""
    buckets = [Bucket() if record is None else _bucket(record, rules) for record in records]
    known = [record for record in records if record is not None]
    lowest = min(known, key=lambda record: record.folded, default=None)
    if lowest is None or len(known) < len(records):
        partition = Partition(
            number,
            known_sources=known_sources,
            silent_sources=silent_sources,
            retired_sources=retired_sources,
            buckets=buckets or None,
        )
    else:
        partition = Partition(
            number,
            known_sources=known_sources,
            silent_sources=silent_sources,
            retired_sources=retired_sources,
            buckets=buckets,
            next_offset=lowest.horizon.offset,
            prefixes={
                SourcePartition(source_id, source): Prefix(position, watermark_ms)
                for source_id, source, position, watermark_ms in lowest.prefixes
            },
            watermark_ms=lowest.watermark_ms,
            # A process that was paused may have stored a bucket that knows of no loss.
            complete_from_ms=max(record.complete_from_ms for record in known),
            lost_from_ms=min((record.lost_from_ms for record in known if record.complete_from_ms), default=0),
            horizon=lowest.horizon,
        )
        _publish_partial(partition)
    for record, bucket in zip(records, buckets, strict=True):
        for tenant in record.tenants if record is not None else ():
            partition.gone_budgets += [
                (tenant.name, counter.name)
                for counter in tenant.counters
                if (tenant.name, counter.name) not in rules and counter.name not in bucket.tenants[tenant.name].counters
            ]
    return partition


def _publish_partial(partition: Partition) -> None:
    """What is partial is published again: nobody knows whether that has been said of it since the loss."""
    if partition.complete_from_ms <= partition.floors.day_kept * DAY_MS:
        return
    for bucket in partition.buckets:
        for tenant in bucket.tenants.values():
            for leaf in tenant.windows.leaves.values():
                tenant.windows.dirty.update(hour for hour in leaf.hours if partition.may_lack(hour, HOUR_MS))
                tenant.windows.dirty.update(day * HOURS_A_DAY for day in leaf.days if partition.may_lack(day, DAY_MS))


def _bucket(record: BucketRecord, rules: Rules) -> Bucket:
    # Of days before the floor some events may have left, or never been taken.
    unknown_ms = Floors.at(record.watermark_ms).day * DAY_MS if record.has_rows else 0
    bucket = Bucket(record.folded, _or(record.held_from_ms, unknown_ms), record.watermark_ms)
    for stored in record.tenants:
        tenant = bucket.tenants[stored.name] = _tenant(stored, rules, record.watermark_ms)
        tenant.held_from_ms = _or(stored.held_from_ms, unknown_ms)
    return bucket


def _or(known: int | None, otherwise: int) -> int:
    return otherwise if known is None else known


def _pack_tenant(name: str, tenant: Tenant, floors: Floors, pack_windows: _PackWindows) -> _Tenant:
    windows = tenant.windows
    return _Tenant(
        name,
        [
            _Leaf(*key, pack_windows(leaf.hours.items()), pack_windows(leaf.days.items()))
            for key, leaf in windows.leaves.items()
        ],
        [
            (currency, pack_windows([live for live in minutes.items() if live[0] >= floors.minute]))
            for currency, minutes in windows.minutes.items()
        ],
        [_pack_counter(counter) for counter in tenant.counters.values()],
        tenant.held_from_ms,
        [_pack_counter(counter) for counter in tenant.followed],
    )


def _pack_counter(counter: Counter) -> CounterRecord:
    return CounterRecord(
        counter.rule.budget.name,
        counter.version,
        counter.rule.spec,
        counter.complete_from_ms,
        [(start, _wide(spent.spent_pico), spent.reached) for start, spent in counter.spent.items()],
        counter.until_ms,
        counter.next_version,
    )


def _plain_windows(windows: Iterable[tuple[int, list[int]]]) -> _Windows:
    return [[number, *counts] for number, counts in windows]


def _wide_windows(windows: Iterable[tuple[int, list[int]]]) -> _Windows:
    return [[number, *map(_wide, counts)] for number, counts in windows]


def _tenant(stored: _Tenant, rules: Rules, watermark_ms: int) -> Tenant:
    tenant = Tenant()
    for packed in stored.leaves:
        leaf = tenant.windows.leaves[packed.provider, packed.model, packed.currency] = Leaf()
        leaf.hours = _windows(packed.hours)
        leaf.days = _windows(packed.days)
    tenant.windows.minutes = {currency: _windows(minutes) for currency, minutes in stored.minutes}
    for packed_counter in stored.counters:
        counter = _counter(stored.name, packed_counter, rules, watermark_ms)
        if counter is not None:
            tenant.counters[packed_counter.name] = counter
    for packed_counter in stored.followed:
        counter = _counter(stored.name, packed_counter, rules, watermark_ms)
        if counter is not None and counter.rule.budget.version == counter.version:
            tenant.followed.append(counter)
    return tenant


def _counter(tenant: str, stored: CounterRecord, rules: Rules, watermark_ms: int) -> Counter | None:
    """None where nobody knows any more what it counts.

    Its rule is that of its version; where that is not known any more, the newest that counts the same.
    """
    alike = [
        rule for rule in rules.versions(tenant, stored.name) if rule.spec == stored.spec and not rule.budget.removed
    ]
    rule = next((rule for rule in alike if rule.budget.version == stored.version), alike[-1] if alike else None)
    if rule is None:
        return None
    counter = Counter(rule, stored.complete_from_ms, watermark_ms)
    counter.version = stored.version
    counter.until_ms, counter.next_version = stored.until_ms, stored.next_version
    for start_ms, spent_pico, reached in stored.spent:
        period = rule.calendar.period_of(start_ms)
        counter.spent[period.start_ms] = Spent(period, int(spent_pico), reached)
    return counter


def _windows(stored: _Windows) -> dict[int, list[int]]:
    return {int(number): list(map(int, counts)) for number, *counts in stored}


def _wide(number: int) -> Wide:
    return number if -_WIDE_MAX <= number <= _WIDE_MAX else str(number)
