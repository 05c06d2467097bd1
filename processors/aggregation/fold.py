"""The fold of one partition of `usage.priced`: windows and budgets of its tenants. Pure: no await, no clock.

The tenants are split into buckets by a hash. A bucket is true by itself: it is the fold of everything
before an offset of its own, whoever folded it and when. So state may be stored bucket by bucket, loaded
in any mixture of ages, and brought to one offset by reading the log again from the lowest: a bucket
skips what it holds. A record that a paused process stores late costs reading, nothing else.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Final
from zlib import crc32

from meterstream.processors.aggregation.beginning import begin
from meterstream.processors.aggregation.budgets import AHEAD_MS_MAX, Counter, Reached, Rule, Rules, Spent
from meterstream.processors.aggregation.duplicates import Horizon, SeenClaims
from meterstream.processors.aggregation.versions import KEPT_MS, end_by, news
from meterstream.processors.aggregation.windows import (
    DAY_MS,
    Floors,
    Room,
    TenantWindows,
)
from meterstream.schema import coverage
from meterstream.schema.coverage import Prefix
from meterstream.schema.pack import Coverage, Pack, Row
from meterstream.schema.position import SourcePartition

BUCKETS: Final = 32
REMEMBERED_MS: Final = 40 * DAY_MS
"""No period of a budget is longer: what a tenant used before that cannot matter to a new one."""
REMEMBERED_MAX: Final = 2_000
"""Tenants of a bucket of which nothing is kept but that they have used something."""


def bucket_of(tenant: str, buckets: int) -> int:
    """The upper bits of the hash whose remainder is the tenant's partition, so that the two are independent."""
    return (crc32(tenant.encode()) >> 12) % buckets


class Tenant:
    """What is live of one tenant."""

    __slots__ = ("bucket", "counters", "followed", "held_from_ms", "windows")

    def __init__(self, bucket: int = 0, held_from_ms: int = 0) -> None:
        self.bucket = bucket
        self.held_from_ms = held_from_ms
        """Of a day that starts here or later every event is in the windows; earlier ones have left, or came too late.
        0: all that ever were."""
        self.windows = TenantWindows()
        self.counters: dict[str, Counter] = {}
        """By name of the budget."""
        self.followed: list[Counter] = []
        """Of versions that are over, for events from before that."""

    @property
    def is_empty(self) -> bool:
        return not (self.windows.leaves or self.windows.minutes or self.counters or self.followed)

    def let_go(self, day: int) -> None:
        """Events of that day are not in the windows, or not any more."""
        self.held_from_ms = max(self.held_from_ms, (day + 1) * DAY_MS)


class Bucket:
    """Some tenants, and the offset up to which they hold the fold."""

    __slots__ = ("folded", "folded_rows", "held_from_ms", "is_unsaved", "room", "tenants", "watermark_ms")

    def __init__(self, folded: int = 0, held_from_ms: int = 0, watermark_ms: int = 0) -> None:
        self.folded = folded
        """Everything before this offset is in here. While the partition is live: of the last state written."""
        self.folded_rows = 0
        """Rows of the partition before that; 0 until this process has written it."""
        self.watermark_ms = watermark_ms
        """The partition's, at that offset."""
        self.held_from_ms = held_from_ms
        """A tenant that is not in here has used nothing from here on; 0: never."""
        self.tenants: dict[str, Tenant] = {}
        self.room = Room()
        self.is_unsaved = False
        """True: to be stored with the next cut, however little is new."""


class Partition:
    """The live state of one partition of `usage.priced`."""

    def __init__(
        self,
        number: int,
        *,
        known_sources: Collection[int],
        silent_sources: Collection[int] = (),
        retired_sources: Collection[int] = (),
        buckets: Sequence[Bucket] | None = None,
        next_offset: int = 0,
        prefixes: coverage.Prefixes | None = None,
        watermark_ms: int = 0,
        complete_from_ms: int = 0,
        lost_from_ms: int = 0,
        horizon: Horizon = Horizon(0, 0),  # noqa: B008 - immutable
    ) -> None:
        """`silent_sources`: their events are counted, but raise no alert.

        `retired_sources`: of topics that were made anew; what was rated of the new ones under these ids is skipped, and
        comes again under another. The rest is what was stored, if anything. `prefixes` and `watermark_ms` hold at the
        lowest offset of the buckets; `next_offset` may lie before that: from there on claims are gathered.
        """
        self.number = number
        self.buckets = list(buckets) if buckets is not None else [Bucket() for _ in range(BUCKETS)]
        self.next_offset = next_offset
        self.low_offset = min(bucket.folded for bucket in self.buckets)
        self.ready_offset = max(bucket.folded for bucket in self.buckets)
        """From here on all buckets hold the same: nothing is published before."""
        self.prefixes: coverage.Prefixes = dict(prefixes or {})
        self.watermark_ms = watermark_ms
        self.complete_from_ms = complete_from_ms
        """Of what starts here or later everything is counted; 0: of everything, the log was read from its beginning."""
        self.lost_from_ms = lost_from_ms
        """The watermark after which a part of the log is lost; 0: at its beginning."""
        self.floors = Floors.at(watermark_ms)
        self.claims = SeenClaims(horizon)
        self.reached: list[Reached] = []
        """Alerts to send; the caller takes them."""
        self.gone: list[tuple[str, str, int]] = []
        """(tenant, hour or day, number) of windows that left; the caller takes them."""
        self.gone_budgets: list[tuple[str, str]] = []
        """(tenant, name) of budgets that were removed; the caller takes them."""
        self.stale_keys: list[bytes] = []
        """Records of another number of buckets, to be dropped when those of this one are stored."""
        self.published_offset = 0
        """Up to here the aggregates are published, and a Progress says so."""
        self.tally: Tally[str] = Tally()
        """Rows so far: counted, repeated, duplicate, late, ahead."""
        self.rules = Rules()
        """What is counted."""
        self._known_sources = frozenset(known_sources)
        self._silent_sources = frozenset(silent_sources)
        self.retired_sources = frozenset(retired_sources)
        self._tenants: dict[str, Tenant] = {}
        for place, bucket in enumerate(self.buckets):
            for name, tenant in bucket.tenants.items():
                tenant.bucket = place
                tenant.windows.move_to(bucket.room)
                self._tenants[name] = tenant
        self._roll_at_ms = self._next_roll()
        self._followed_until_ms = self._last_end()

    @property
    def is_ready(self) -> bool:
        """True when every bucket holds the fold of everything before `next_offset`."""
        return self.next_offset >= self.ready_offset

    def may_lack(self, number: int, length_ms: int) -> bool:
        """True where events of that hour or day, as the length says, may be lost: it took events, or was to come."""
        return number >= self.lost_from_ms // length_ms - 1 and number * length_ms < self.complete_from_ms

    def split(self, buckets: int) -> None:
        """Deals the tenants out anew; only while all buckets hold the same."""
        assert self.is_ready
        held_from_ms = max(bucket.held_from_ms for bucket in self.buckets)
        self.buckets = [Bucket(self.next_offset, held_from_ms, self.watermark_ms) for _ in range(buckets)]
        for name, tenant in self._tenants.items():
            tenant.bucket = bucket_of(name, buckets)
            self.buckets[tenant.bucket].tenants[name] = tenant
            tenant.windows.move_to(self.buckets[tenant.bucket].room)
        for bucket in self.buckets:
            bucket.is_unsaved = True

    # ------------------------------------------------------------------ records

    def apply(self, offset: int, record: Pack | Coverage) -> None:
        """Folds the record at `next_offset` or, where compaction or control records left a hole, after it.

        Raises CoverageGap, TopicMadeAnew, UnknownSource.
        """
        assert offset >= self.next_offset, f"{offset} was folded already, next is {self.next_offset}"
        if isinstance(record, Pack):
            self._apply_pack(offset, record)
        else:
            self.claims.add(offset, 0, ())
            if offset >= self.low_offset:
                self._apply_coverage(offset, record)
        self.next_offset = offset + 1

    def _apply_pack(self, offset: int, pack: Pack) -> None:
        # An older writer says no watermark.
        watermark_ms = pack.watermark_ms or max(
            (coverage.milliseconds(row.appended_at) for row in pack.rows), default=0
        )
        if pack.source_id in self.retired_sources:
            # Which of these rows are skipped is not known below the low offset, so none of them claims anything.
            self.claims.add(offset, watermark_ms, ())
            known = [self.claims.knows(row.claim) for row in pack.rows]
        else:
            # The claims of every row, so that the horizon is the same for every reader.
            known = self.claims.add(offset, watermark_ms, [row.claim for row in pack.rows])
        if offset < self.low_offset:
            return
        source = pack.source_partition
        before = self._advance(source, pack.lo, pack.hi, pack.watermark_ms)
        self._see(offset, watermark_ms)
        raises_alerts = pack.source_id not in self._silent_sources
        covered = before.position
        count = self._count_for_followed if self._may_be_for_followed(pack) else self._count
        for row, is_known in zip(pack.rows, known, strict=True):
            if row.position <= covered and coverage.is_repeat(
                before, source, row.position, coverage.milliseconds(row.appended_at), self.retired_sources
            ):
                self.tally["repeated"] += 1
            elif is_known:
                self.tally["duplicate"] += 1
            else:
                count(offset, pack, row, raises_alerts)

    def _apply_coverage(self, offset: int, record: Coverage) -> None:
        for part in record.covered:
            source = SourcePartition(part.source_id, part.partition)
            before = self._advance(source, part.lo, part.hi, part.watermark_ms)
            coverage.is_repeat(before, source, part.hi, part.watermark_ms, self.retired_sources)
            self._see(offset, part.watermark_ms)

    def _advance(self, source: SourcePartition, lo: int, hi: int, watermark_ms: int) -> Prefix:
        before = self.prefixes.get(source, coverage.NOTHING)
        if self.complete_from_ms > 0 and lo > before.position + 1 and before.watermark_ms <= self.complete_from_ms:
            # After a loss, or a beginning in mid-log: what lies between may stand in what nobody has read, and was
            # appended before.
            self.prefixes[source] = Prefix(lo - 1, self.complete_from_ms)
        return coverage.advance(self.prefixes, source, lo, hi, watermark_ms, self._known_sources)

    def _count(self, offset: int, pack: Pack, row: Row, raises_alerts: bool) -> None:
        tenant = self._tenants.get(row.tenant) or self._new_tenant(row.tenant)
        bucket = self.buckets[tenant.bucket]
        if offset < bucket.folded:
            return
        occurred_ms = int(row.occurred_at.timestamp() * 1000)  # exact to the second, where windows begin
        if occurred_ms > self.watermark_ms + AHEAD_MS_MAX:
            self.tally["ahead"] += 1
            return
        amount = row.amount_pico
        counts = [1, int(row.status != "ok"), int(amount is None), row.input_tokens, row.output_tokens, amount or 0, 0]
        is_live = tenant.windows.add((row.provider, row.model, row.currency), occurred_ms, counts, self.floors)
        self.tally["counted" if is_live else "late"] += 1
        if not is_live:
            tenant.let_go(occurred_ms // DAY_MS)
        if amount is None:
            return
        for counter in tenant.counters.values():
            rule = counter.rule
            if rule.currency != row.currency or not rule.matches(row):
                continue
            spent = counter.add(occurred_ms, amount)
            if spent is not None and raises_alerts and counter.is_due(spent):
                self._raise(counter, spent, pack, row)

    def _may_be_for_followed(self, pack: Pack) -> bool:
        # Within a source partition append times rise. Its watermark says less: packs of one flush have the same.
        return (
            self._followed_until_ms > 0
            and len(pack.rows) > 0
            and coverage.milliseconds(pack.rows[0].appended_at) < self._followed_until_ms
        )

    def _count_for_followed(self, offset: int, pack: Pack, row: Row, raises_alerts: bool) -> None:
        """`_count`, also for versions that are over but were not when the row was appended."""
        self._count(offset, pack, row, raises_alerts)
        tenant, amount = self._tenants.get(row.tenant), row.amount_pico
        if tenant is None or amount is None or offset < self.buckets[tenant.bucket].folded:
            return
        occurred_ms = int(row.occurred_at.timestamp() * 1000)
        if occurred_ms > self.watermark_ms + AHEAD_MS_MAX:
            return
        appended_ms = coverage.milliseconds(row.appended_at)
        for counter in tenant.followed:
            if appended_ms < counter.until_ms and counter.rule.currency == row.currency and counter.rule.matches(row):
                spent = counter.add(occurred_ms, amount)
                if spent is not None and raises_alerts and counter.is_due(spent):
                    self._raise(counter, spent, pack, row)

    def _raise(self, counter: Counter, spent: Spent, pack: Pack, row: Row) -> None:
        appended_ms = coverage.milliseconds(row.appended_at)
        self.reached.extend(counter.reach(spent, appended_ms, row, pack.source_id, pack.partition))

    def adjust(self, offset: int, row: Row, amount_pico: int) -> None:
        """A correction of the charge of an event: moves money in the event's windows and budgets, and no count.

        Levels that a correction reaches are raised with the next event; levels are never taken back.
        """
        tenant = self._tenants.get(row.tenant) or self._new_tenant(row.tenant)
        if offset < self.buckets[tenant.bucket].folded:
            return
        occurred_ms = coverage.milliseconds(row.occurred_at)
        if occurred_ms > self.watermark_ms + AHEAD_MS_MAX:
            return
        counts = [0, 0, 0, 0, 0, 0, amount_pico]
        if not tenant.windows.add((row.provider, row.model, row.currency), occurred_ms, counts, self.floors):
            tenant.let_go(occurred_ms // DAY_MS)
        appended_ms = coverage.milliseconds(row.appended_at)
        followed = [counter for counter in tenant.followed if appended_ms < counter.until_ms]
        for counter in (*tenant.counters.values(), *followed):
            if counter.rule.currency == row.currency and counter.rule.matches(row):
                counter.add(occurred_ms, amount_pico)

    def _new_tenant(self, name: str) -> Tenant:
        bucket = bucket_of(name, len(self.buckets))
        tenant = Tenant(bucket, self.buckets[bucket].held_from_ms)
        self._tenants[name] = self.buckets[bucket].tenants[name] = tenant
        tenant.windows.move_to(self.buckets[bucket].room)
        return tenant

    def windows(self) -> list[tuple[str, str, int]]:
        """(tenant, hour or day, number) of every window that is kept."""
        found: list[tuple[str, str, int]] = []
        for name, tenant in self._tenants.items():
            leaves = tenant.windows.leaves.values()
            found += [(name, "hour", hour) for hour in {hour for leaf in leaves for hour in leaf.hours}]
            found += [(name, "day", day) for day in {day for leaf in leaves for day in leaf.days}]
        return found

    # ------------------------------------------------------------------ time

    def _see(self, offset: int, watermark_ms: int) -> None:
        """Moves the watermark, and with it what is live, in the buckets that this offset is news to."""
        if watermark_ms <= self.watermark_ms:
            return
        before, self.watermark_ms = self.floors, watermark_ms
        self.floors = Floors.at(watermark_ms)
        if watermark_ms >= self._roll_at_ms:
            for counter in chain(self.counters(), self._followed()):
                if watermark_ms >= counter.current.end_ms:
                    counter.roll(watermark_ms)
            self._roll_at_ms = self._next_roll()
        if self.floors.hour != before.hour:
            self._sweep(offset, before)

    def _sweep(self, offset: int, before: Floors) -> None:
        for bucket in self.buckets:
            if offset < bucket.folded:
                continue  # it was swept by whoever folded it
            for name, tenant in bucket.tenants.items():
                if tenant.is_empty:
                    continue
                hours, days = tenant.windows.sweep(before, self.floors)
                self.gone += [(name, "hour", hour) for hour in hours]
                self.gone += [(name, "day", day) for day in days]
                if days:
                    tenant.let_go(max(days))
                if tenant.followed:
                    kept_ms = self.watermark_ms - KEPT_MS
                    tenant.followed = [each for each in tenant.followed if each.until_ms > kept_ms]
            self._forget(bucket)
        self._followed_until_ms = self._last_end()

    def _forget(self, bucket: Bucket) -> None:
        """Lets go of tenants of which nothing is kept, as far as they are too old or too many."""
        empty = sorted((tenant.held_from_ms, name) for name, tenant in bucket.tenants.items() if tenant.is_empty)
        too_many = len(empty) - REMEMBERED_MAX
        for place, (held_from_ms, name) in enumerate(empty):
            if place < too_many or held_from_ms <= max(bucket.held_from_ms, self.watermark_ms - REMEMBERED_MS):
                del bucket.tenants[name], self._tenants[name]
                bucket.held_from_ms = max(bucket.held_from_ms, held_from_ms)

    def counters(self) -> Iterator[Counter]:
        """Of every budget of every tenant."""
        return (counter for tenant in self._tenants.values() for counter in tenant.counters.values())

    def _followed(self) -> Iterator[Counter]:
        return (counter for tenant in self._tenants.values() for counter in tenant.followed)

    def _next_roll(self) -> int:
        ends = (counter.current.end_ms for counter in chain(self.counters(), self._followed()))
        return min(ends, default=1 << 62)

    def _last_end(self) -> int:
        """No event that was appended then or later is for a version that is over."""
        return max((counter.until_ms for counter in self._followed()), default=0)

    # ------------------------------------------------------------------ budgets

    def use(self, rules: Rules) -> None:
        """Begins to count what is new, goes on with what is known, lets go of what was removed.

        A bucket that is ahead of the log's reader counts from where it is; so call it as soon as the state is loaded:
        then every bucket is as it was stored. Later, `cut` does it and has the buckets stored that must be.
        """
        self.rules = rules
        for name, tenant in list(self._tenants.items()):
            for unknown in [budget for budget in tenant.counters if not rules.versions(name, budget)]:
                del tenant.counters[unknown]
                self.gone_budgets.append((name, unknown))
                self.buckets[tenant.bucket].is_unsaved = True
        for name, own in rules.of_partition(self.number):
            for versions in own:
                for rule in self._news(name, versions):
                    self._take(name, rule)
        self._roll_at_ms = self._next_roll()
        self._followed_until_ms = self._last_end()

    def buckets_to_begin(self, rules: Rules) -> list[int]:
        """Numbers of the buckets in which `use` would begin a version, or end one."""
        return sorted(
            {
                bucket_of(name, len(self.buckets))
                for name, own in rules.of_partition(self.number)
                if any(self._news(name, versions) for versions in own)
            }
        )

    def _news(self, name: str, versions: Sequence[Rule]) -> Sequence[Rule]:
        tenant = self._tenants.get(name)
        if tenant is None:
            return news(versions, {}, (), self._watermark_of(bucket_of(name, len(self.buckets))))
        return news(versions, tenant.counters, tenant.followed, self._watermark_of(tenant.bucket))

    def _watermark_of(self, bucket: int) -> int:
        return max(self.watermark_ms, self.buckets[bucket].watermark_ms)

    def _take(self, name: str, rule: Rule) -> None:
        tenant = self._tenants.get(name) or self._new_tenant(name)
        self.buckets[tenant.bucket].is_unsaved = True
        watermark_ms = self._watermark_of(tenant.bucket)
        before = end_by(rule, tenant.counters, tenant.followed, watermark_ms)
        if rule.budget.removed:
            self.gone_budgets.append((name, rule.budget.name))
            return
        counter = before.followed_by(rule, watermark_ms) if before is not None else None
        if counter is None:
            counter = begin(
                rule,
                tenant.windows.leaves,
                watermark_ms,
                held_from_ms=max(tenant.held_from_ms, self.complete_from_ms),
                complete_from_ms=self.complete_from_ms,
            )
        tenant.counters[rule.budget.name] = counter
        now_ms = max(watermark_ms, rule.changed_ms)  # where nothing flows, the watermark may be long ago
        for spent in counter.spent.values():
            self.reached.extend(counter.reach(spent, now_ms))
