"""Versions of a budget against the append times of events: edges of what tests/property/test_live_versions.py draws."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from meterstream.processors.aggregation import checkpoint, versions
from meterstream.processors.aggregation.budgets import Rules
from meterstream.processors.aggregation.catalog import BudgetCatalog
from meterstream.processors.aggregation.cut import cut
from meterstream.schema.aggregate import budget_key
from meterstream.schema.alert import Alert, decode_alert
from meterstream.schema.budget import Budget
from meterstream.schema.catalog import BudgetEntry, BudgetVersion, decode_entry, encode_entry
from meterstream.schema.errors import BudgetInvalid
from meterstream.schema.position import SourcePartition
from tests.unit.test_live_fold import IMPORT, NUMBER, TENANT, USD, Feed, budget, ms

OTHER = SourcePartition(1, 1)
MADE = {1: "2026-05-01T09:00", 2: "2026-05-01T10:05", 3: "2026-05-01T10:10", 4: "2026-05-01T10:15"}


def rules(*budgets: Budget) -> Rules:
    """Of versions that were made when MADE says."""
    return Rules(budgets, {(each.tenant, each.name, each.version): ms(MADE[each.version]) for each in budgets})


def version(number: int, amount: int = 10, percent: int = 100, **fields: Any) -> Budget:
    return budget(version=number, amount=str(amount), thresholds=[percent], **fields)


def feed_of(*budgets: Budget) -> Feed:
    feed = Feed()
    feed.positions[OTHER] = 0
    feed.partition.use(rules(*budgets))
    return feed


def restarted(feed: Feed, *budgets: Budget, fields_kept: int | None = None) -> Feed:
    """From what it stores. `fields_kept`: of a tenant, as an earlier version wrote it."""
    buckets = len(feed.partition.buckets)
    records = []
    for number in range(buckets):
        fields = msgspec.msgpack.decode(checkpoint.encode_bucket(feed.partition, number))
        fields[7] = [tenant[:fields_kept] for tenant in fields[7]]
        records.append(checkpoint.decode_bucket(msgspec.msgpack.encode(fields)))
    known = rules(*budgets)
    other = Feed()
    other.partition = checkpoint.restore(NUMBER, [*records], known, known_sources={1, 2}, silent_sources={2})
    other.partition.next_offset = other.partition.ready_offset
    other.partition.use(known)
    other.positions = feed.positions
    return other


def alerts(feed: Feed) -> list[Alert]:
    each = cut(feed.partition, publishes_all=True)
    return [decode_alert(value) for _, value in [*each.alerts, *each.begun]]


def told(feed: Feed) -> list[tuple[int, str, bool]]:
    """(version, spent, whether an event is named) of every new alert."""
    return [(each.data.version, each.data.spent, each.data.place is not None) for each in alerts(feed)]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_an_event_that_was_appended_before_the_change_is_the_older_versions_whenever_it_comes(
    is_restarted: bool,
) -> None:
    """Another source partition was rated later; the watermark is far beyond the change."""
    feed = feed_of(version(1))
    feed.send("2026-05-01T10:00", amount=4 * USD)
    known = version(1), version(2, 8)
    feed.partition.use(rules(*known))
    feed.send("2026-05-01T10:06", amount=3 * USD)
    assert told(feed) == []
    if is_restarted:
        feed = restarted(feed, *known)
    feed.send("2026-05-01T10:04", amount=6 * USD, source=OTHER, claim=b"of its own")
    (old, new) = sorted(alerts(feed), key=lambda each: each.data.version)
    assert (old.data.version, old.data.spent, old.time.minute) == (1, "10", 4), "without what came after the change"
    assert old.data.place is not None and old.data.place.source_partition == OTHER.partition
    assert (new.data.version, new.data.spent, new.data.place) == (2, "13", None)
    assert new.time == datetime(2026, 5, 1, 10, 5, tzinfo=UTC), "that of the change"


def test_packs_of_one_flush_have_one_watermark() -> None:
    """It is that of the last of them."""
    feed = feed_of(version(1))
    feed.partition.use(rules(version(1), version(2, 20)))
    feed.send("2026-05-01T10:00", amount=4 * USD, watermark_ms=ms("2026-05-01T10:30"))
    feed.send("2026-05-01T10:01", amount=6 * USD, watermark_ms=ms("2026-05-01T10:30"))
    assert told(feed) == [(1, "10", True)]


def test_what_comes_after_the_change_reaches_no_level_of_the_older_version() -> None:
    feed = feed_of(version(1))
    feed.partition.use(rules(version(1), version(2, 20)))
    feed.send("2026-05-01T10:04", amount=9 * USD)
    feed.send("2026-05-01T10:05", amount=9 * USD)
    feed.send("2026-05-01T10:06", amount=USD)
    assert told(feed) == []
    feed.send("2026-05-01T10:07", amount=USD)
    assert told(feed) == [(2, "20", True)]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_removed_budget_is_gone_at_once_and_still_judges_what_came_before(is_restarted: bool) -> None:
    feed = feed_of(version(1))
    feed.send("2026-05-01T10:00", amount=4 * USD)
    known = version(1), version(2, removed=True)
    if is_restarted:
        feed = restarted(feed, *known)
    else:
        feed.partition.use(rules(*known))
    assert (budget_key(TENANT, "b"), None) in cut(feed.partition, publishes_all=True).aggregates
    feed.send("2026-05-01T10:01", amount=6 * USD)
    assert told(feed) == [(1, "10", True)]
    assert not feed.budgets()


def test_every_version_of_an_absence_has_its_alerts() -> None:
    """Stored with the first; changed, removed and made again before anybody looks."""
    feed = feed_of(version(1))
    feed.send("2026-05-01T10:00", amount=4 * USD)
    feed = restarted(feed, version(1), version(2, 8), version(3, removed=True), version(4, 30))
    feed.send("2026-05-01T10:01", amount=6 * USD)
    assert sorted(told(feed)) == [(1, "10", True), (2, "10", False)]
    feed.send("2026-05-01T10:11", amount=16 * USD)
    assert told(feed) == []
    feed.send("2026-05-01T10:16", amount=4 * USD)
    assert told(feed) == [(4, "30", True)]


def test_of_a_period_that_was_over_at_the_change_nothing_is_told() -> None:
    feed = feed_of(version(1, 100))
    feed.send("2026-05-01T08:00", amount=USD)
    made = {(TENANT, "b", 1): ms(MADE[1]), (TENANT, "b", 2): ms("2026-05-02T00:30")}
    feed.partition.use(Rules([version(1, 100), version(2, 10)], made))
    feed.send("2026-05-01T23:00", amount=12 * USD)
    assert told(feed) == []
    feed.send("2026-05-02T00:40", amount=11 * USD)
    assert told(feed) == [(2, "11", True)]


def test_an_import_counts_for_the_version_of_its_time_and_raises_nothing() -> None:
    feed = feed_of(version(1))
    feed.partition.use(rules(version(1), version(2, 20)))
    feed.send("2026-05-01T10:03", amount=9 * USD, source=IMPORT)
    feed.send("2026-05-01T10:06", amount=USD, source=IMPORT)
    assert told(feed) == []
    feed.send("2026-05-01T10:04", amount=USD)
    assert told(feed) == [(1, "10", True)]


def test_a_version_that_is_over_is_forgotten_after_a_week() -> None:
    feed = feed_of(version(1), version(2))
    feed.send("2026-05-01T10:00")
    (tenant,) = [each for bucket in feed.partition.buckets for each in bucket.tenants.values()]
    feed.send("2026-05-08T10:00")
    assert [each.version for each in tenant.followed] == [1]
    feed.send("2026-05-08T11:00")
    assert tenant.followed == []


def test_only_so_many_versions_that_are_over_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "EARLIER_MAX", 2)
    feed = feed_of(*(version(number) for number in MADE))
    (tenant,) = [each for bucket in feed.partition.buckets for each in bucket.tenants.values()]
    assert [each.version for each in tenant.followed] == [2, 3]


def test_a_version_that_nobody_knows_any_more_hands_its_sums_on() -> None:
    feed = feed_of(version(1))
    feed.send("2026-05-01T10:00", amount=4 * USD)
    feed = restarted(feed, version(3), version(4, 20))
    feed.send("2026-05-01T10:01", amount=5 * USD)
    feed.send("2026-05-01T10:11", amount=USD)
    assert told(feed) == [(3, "10", True)]


def test_of_what_an_earlier_version_of_ours_has_removed_nothing_is_raised_again() -> None:
    """It remembered nothing of it, and the entry still brings the version."""
    feed = feed_of()
    feed.send("2026-05-01T10:04", amount=12 * USD)
    feed.send("2026-05-01T10:30")
    known = version(1), version(2, removed=True)
    feed = restarted(feed, *known, fields_kept=5)
    assert told(feed) == []
    feed = restarted(feed, *known, version(3, 13))
    assert told(feed) == [(3, "13", False)]


def test_a_clock_that_stepped_back_makes_no_version_hold_before_the_one_it_follows() -> None:
    made = {(TENANT, "b", 1): 5_000, (TENANT, "b", 2): 4_000, (TENANT, "b", 3): 6_000}
    known = Rules([version(3), version(1), version(2)], made)
    assert [each.changed_ms for each in known.versions(TENANT, "b")] == [5_000, 5_000, 6_000]
    assert known[TENANT, "b"].budget.version == 3


FIELDS: dict[str, Any] = {
    "tenant": TENANT, "name": "b", "amount": "10", "currency": "USD", "period": "day", "time_zone": "UTC",
    "week_start": 1, "anchor_day": 1, "thresholds": (100,),
}  # fmt: skip


def test_the_versions_before_come_with_the_newest() -> None:
    at = datetime(2026, 5, 1, 9, tzinfo=UTC)
    entry = BudgetEntry(
        **FIELDS, version=3, changed_at=at.replace(hour=11),
        earlier=(BudgetVersion(**FIELDS, version=1, changed_at=at), BudgetVersion(**FIELDS, version=2, removed=True)),
    )  # fmt: skip
    catalog = BudgetCatalog()
    assert catalog.apply(decode_entry(encode_entry(entry)[1]))
    known = catalog.rules().versions(TENANT, "b")
    assert [(each.budget.version, each.budget.removed, each.changed_ms) for each in known] == [
        (1, False, ms("2026-05-01T09:00")),
        (2, True, ms("2026-05-01T09:00")),
        (3, False, ms("2026-05-01T11:00")),
    ]
    assert not catalog.apply(BudgetEntry(**FIELDS, version=2)), "sent late"
    with pytest.raises(BudgetInvalid):
        catalog.apply(
            BudgetEntry(**FIELDS, version=4, earlier=(BudgetVersion(**FIELDS | {"amount": "-1"}, version=3),))
        )
    assert len(catalog.rules().versions(TENANT, "b")) == 3, "what was known stays"


def test_an_entry_of_an_earlier_publisher_has_its_version_alone() -> None:
    key, value = encode_entry(BudgetEntry(**FIELDS, version=2))
    assert (key, b"earlier" in value) == (f"budget/{TENANT}/b".encode(), False)
    catalog = BudgetCatalog()
    assert catalog.apply(decode_entry(value))
    assert [each.budget.version for each in catalog.rules().versions(TENANT, "b")] == [2]
    again = BudgetEntry(**FIELDS, version=2, earlier=(BudgetVersion(**FIELDS, version=1),))
    assert catalog.apply(again) and not catalog.apply(again)
    assert [each.budget.version for each in catalog.rules().versions(TENANT, "b")] == [1, 2]
