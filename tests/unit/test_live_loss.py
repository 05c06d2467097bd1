"""A state that goes on after a loss of the log: edges that a generated log rarely meets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meterstream.deploy.verify.live_partition import LivePartition
from meterstream.processors.aggregation import checkpoint
from meterstream.processors.aggregation.budgets import Rules, counted_from
from meterstream.processors.aggregation.checkpoint import BucketRecord
from meterstream.processors.aggregation.cut import Keyed, cut
from meterstream.processors.aggregation.fold import BUCKETS, bucket_of
from meterstream.processors.aggregation.loss import after_loss, resumes_at, steps
from meterstream.processors.aggregation.windows import DAY_MS, HOUR_MS
from meterstream.schema.aggregate import Window, decode_aggregate
from meterstream.schema.budget import Budget
from meterstream.schema.errors import CoverageGap
from tests.property.live_log import whole_state
from tests.unit.test_live_fold import NUMBER, RAW, TENANT, USD, Feed, budget, ms

OWN = bucket_of(TENANT, BUCKETS)


def stored(feed: Feed) -> list[BucketRecord | None]:
    return checkpoint.choose(whole_state(feed.partition), NUMBER)


def continued(feed: Feed, sent: str, *budgets: Budget) -> Feed:
    """From the state of now, where ten records are lost; the next one was `sent` then."""
    after = after_loss(stored(feed), feed.partition.next_offset + 10, counted_from(ms(sent)))
    other, rules = Feed(), Rules(budgets)
    other.partition = checkpoint.restore(NUMBER, list(after), rules, known_sources={1, 2}, silent_sources={2})
    other.partition.use(rules)
    other.partition.next_offset = other.partition.ready_offset
    other.positions = {source: position + 1000 for source, position in feed.positions.items()}
    return other


def partial_hours(feed: Feed) -> dict[str, bool]:
    records = [decode_aggregate(value) for _, value in cut(feed.partition, publishes_all=True).aggregates if value]
    windows = [record for record in records if isinstance(record, Window) and record.window == "hour"]
    return {f"{window.start:%dT%H}": window.partial for window in windows}


def test_what_was_counted_and_reached_stays_and_the_next_level_is_raised() -> None:
    feed = Feed(budget())
    feed.send("2026-05-01T10:00", amount=8 * USD)
    assert [alert.percent for alert in feed.alerts()] == [50, 80]
    feed = continued(feed, "2026-05-01T11:00", budget())
    state = feed.budgets()["b"]
    assert (state.spent, state.reached, state.provisional) == ("8", (50, 80), True)
    feed.send("2026-05-01T11:01", amount=USD)
    feed.send("2026-05-01T11:02", amount=2 * USD)
    assert [(alert.percent, alert.spent, alert.provisional) for alert in feed.alerts()] == [(100, "11", True)]
    feed.send("2026-05-02T00:00", amount=USD)
    assert not feed.budgets()["b"].provisional


def test_a_budget_that_is_made_after_a_loss_does_not_claim_to_know_what_came_before() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:00")
    feed = continued(feed, "2026-05-01T11:00", budget(), budget(name="other", model="unheard-of"))
    states = feed.budgets()
    assert states["b"].provisional and states["other"].provisional


def test_the_hole_is_no_gap_and_a_later_one_is() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:00")
    feed = continued(feed, "2026-05-01T11:00")
    feed.send("2026-05-01T11:01")
    feed.send("2026-05-01T11:06")
    feed.positions[RAW] += 1
    with pytest.raises(CoverageGap):
        feed.send("2026-05-01T11:07")


def test_what_a_newer_bucket_holds_is_not_counted_again_when_a_rater_repeats_itself() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:00")
    records = stored(feed)
    feed.send("2026-05-01T10:01")
    records[OWN] = stored(feed)[OWN]
    after = after_loss(records, 10, counted_from(ms("2026-05-01T11:00")))
    feed.partition = checkpoint.restore(NUMBER, list(after), Rules(), known_sources={1, 2}, silent_sources={2})
    feed.partition.next_offset = 10
    feed.positions[RAW] = 1
    feed.send("2026-05-01T10:01")
    feed.send("2026-05-01T11:01")
    assert feed.partition.tally == {"repeated": 1, "counted": 1}


def test_of_two_losses_one_after_the_other_both_stay_marked() -> None:
    feed = Feed()
    feed.send("2026-05-01T08:30")
    feed.send("2026-05-01T10:30")
    feed = continued(feed, "2026-05-01T10:40")
    feed.send("2026-05-01T12:50")
    feed = continued(feed, "2026-05-01T12:55")
    assert partial_hours(feed) == {"01T10": True, "01T12": True}
    assert not feed.partition.may_lack(ms("2026-05-01T08:30") // HOUR_MS, HOUR_MS), "it was settled before"


def test_an_old_loss_does_not_mark_what_came_between() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:30")
    feed = continued(feed, "2026-05-01T10:40")
    for hour in range(24):
        feed.send(f"2026-05-05T{hour:02}:30")
    feed = continued(feed, "2026-05-05T23:40")
    assert feed.partition.may_lack(ms("2026-05-05T22:30") // HOUR_MS, HOUR_MS)
    assert not feed.partition.may_lack(ms("2026-05-05T21:30") // HOUR_MS, HOUR_MS)
    assert not feed.partition.may_lack(ms("2026-05-03T00:00") // DAY_MS, DAY_MS)


def test_a_bucket_that_knows_of_no_loss_does_not_hide_it() -> None:
    """A process that was paused has read what is lost, and stores its bucket late."""
    feed = Feed()
    feed.send("2026-05-01T10:30")
    records = stored(feed)
    after: list[BucketRecord | None] = list(after_loss(records, 5, counted_from(ms("2026-05-01T11:00"))))
    after[0] = records[0]
    partition = checkpoint.restore(NUMBER, after, Rules(), known_sources={1}, silent_sources={2})
    assert partition.may_lack(ms("2026-05-01T10:30") // HOUR_MS, HOUR_MS)


def test_where_a_bucket_was_never_stored_everything_begins_anew() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:00")
    records = stored(feed)
    records[OWN - 1] = None
    assert resumes_at(records, 7) == 7
    after = after_loss(records, 7, counted_from(ms("2026-05-01T11:00")))
    assert len(after) == BUCKETS and not any(record.tenants for record in after)
    first, last = steps(NUMBER, records, after)
    assert [key for key, _ in last] == [checkpoint.key_of(NUMBER, BUCKETS, OWN - 1)]
    assert len(first) == BUCKETS - 1
    assert after_loss(list(after), 7, 0) == after


def test_other_numbers_of_buckets_are_all_lowest() -> None:
    """A set that is not whole yet does not hide the one that was accepted."""
    after = after_loss([None] * 3, 7, 1)
    first, last = steps(NUMBER, [None] * 3, after)
    assert (len(first), len(last)) == (0, BUCKETS)


def test_a_window_of_which_everything_is_lost_is_not_said_to_be_missing() -> None:
    """What was settled before the loss is whole, and no proof that the next hours are."""
    feed = Feed()
    for hour in (7, 8, 10):
        feed.send(f"2026-05-01T{hour:02}:30")
    sent = list(cut(feed.partition, publishes_all=True).aggregates)
    feed = continued(feed, "2026-05-01T10:40")
    feed.send("2026-05-01T10:50")
    sent += cut(feed.partition, publishes_all=True).aggregates
    live = seen(sent, feed)
    assert {f"{window.start:%H}": window.partial for window in live.windows.values() if window.window == "hour"} == {
        "08": False, "10": True,
    }  # fmt: skip
    assert live.complete_since("hour") is None
    feed.send("2026-05-01T11:50")
    feed.send("2026-05-01T12:50")
    sent += cut(feed.partition, publishes_all=True).aggregates
    assert seen(sent, feed).complete_since("hour") == datetime(2026, 5, 1, 11, tzinfo=UTC)


def seen(sent: list[Keyed], feed: Feed) -> LivePartition:
    live = LivePartition(feed.partition.next_offset)
    for key, value in sent:
        live.add(key, value)
    return live
