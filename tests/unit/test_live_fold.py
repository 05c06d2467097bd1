"""The fold behind live windows and budgets: edges that a generated log rarely meets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from meterstream.processors.aggregation import checkpoint, fold
from meterstream.processors.aggregation.budgets import AHEAD_MS_MAX, Rules, counted_from
from meterstream.processors.aggregation.cut import cut
from meterstream.processors.aggregation.fold import Bucket, Partition
from meterstream.processors.aggregation.windows import MODELS_MAX
from meterstream.schema import topics
from meterstream.schema.aggregate import BudgetState, Window, budget_key, decode_aggregate
from meterstream.schema.alert import AlertData, decode_alert
from meterstream.schema.budget import Budget, checked
from meterstream.schema.currencies import CURRENCIES
from meterstream.schema.errors import CoverageGap, RecordUnreadable, TopicMadeAnew, UnknownSource
from meterstream.schema.pack import Pack, decode_pack, encode_pack
from meterstream.schema.position import SourcePartition
from meterstream.schema.topics import partition_of
from tests.property.live_log import whole_state

TENANT = "acme"
NUMBER = partition_of(TENANT)
RAW, IMPORT = SourcePartition(1, 0), SourcePartition(2, 0)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
USD = 10**12


def ms(text: str) -> int:
    """ "2026-03-29T22:58" in UTC -> ms since 1970."""
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


class Feed:
    """A partition, and packs of one row for it."""

    def __init__(self, *budgets: Budget, **fields: Any) -> None:
        self.partition = Partition(NUMBER, known_sources={1, 2}, silent_sources={2}, **fields)
        self.partition.use(Rules(budgets))
        self.positions = {RAW: 0, IMPORT: 0}

    def send(
        self, appended: str, occurred: str | None = None, amount: int = USD, *, source: SourcePartition = RAW,
        watermark_ms: int | None = None, **fields: Any,
    ) -> Pack:  # fmt: skip
        """`fields`: of the row, where they differ."""
        appended_ms = ms(appended)
        position = self.positions[source]
        self.positions[source] += 1
        pack = pack_of(source, position, appended_ms, ms(occurred or appended), amount, watermark_ms)
        pack = msgspec.structs.replace(pack, rows=(msgspec.structs.replace(pack.rows[0], **fields),))
        self.partition.apply(self.partition.next_offset, pack)
        return pack

    def budgets(self) -> dict[str, BudgetState]:
        states = [decode_aggregate(value) for _, value in cut(self.partition, publishes_all=True).aggregates if value]
        return {state.name: state for state in states if isinstance(state, BudgetState)}

    def alerts(self) -> list[AlertData]:
        return [decode_alert(value).data for _, value in cut(self.partition, publishes_all=True).alerts]


def pack_of(
    source: SourcePartition, position: int, appended_ms: int, occurred_ms: int, amount: int, watermark_ms: int | None
) -> Pack:
    at, when = EPOCH + timedelta(milliseconds=appended_ms), EPOCH + timedelta(milliseconds=occurred_ms)
    row = (
        position, source.source_id.to_bytes(8) + position.to_bytes(8), 0, TENANT, f"e{position}", "s", when, at, "p",
        "m", "o", "", "", "", "ok", None, None, "priced", 1, "USD", amount, 1, 1, 0, 0, 0,
    )  # fmt: skip
    return decode_pack(
        encode_pack(source, position, position, [row], appended_ms if watermark_ms is None else watermark_ms)
    )


def budget(**fields: Any) -> Budget:
    given: dict[str, Any] = {"tenant": TENANT, "name": "b", "amount": "10", "currency": "USD", "period": "day"}
    return checked(**(given | fields))


def test_a_budget_counts_what_came_before_it_where_the_days_are_known() -> None:
    feed = Feed()
    feed.send("2026-05-02T10:00", "2026-05-01T10:00")
    feed.send("2026-05-02T10:00")
    feed.partition.use(Rules([budget(period="month"), budget(name="day")]))
    states = feed.budgets()
    assert (states["b"].spent, states["b"].provisional) == ("2", False)
    assert (states["day"].spent, states["day"].provisional) == ("1", False)


STRANGER = next(name for name in (f"t{n}" for n in range(100)) if partition_of(name) == NUMBER)


def restarted(feed: Feed, *budgets: Budget) -> Feed:
    """From the state of every bucket, as it was stored."""
    state = whole_state(feed.partition)
    other = Feed()
    other.partition = checkpoint.restore(
        NUMBER, checkpoint.choose(state, NUMBER), Rules(budgets), known_sources={1, 2}, silent_sources={2}
    )
    other.partition.use(Rules(budgets))
    other.partition.next_offset = other.partition.ready_offset  # ids from before do not matter here
    other.positions = feed.positions
    return other


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_others_used_makes_no_budget_provisional(is_restarted: bool) -> None:
    """They share a bucket; their days have come and gone for a month."""
    feed = Feed(buckets=[Bucket()])
    for day in range(1, 29):
        feed.send(f"2026-05-{day:02}T10:00", tenant=STRANGER)
    if is_restarted:
        feed = restarted(feed)
    feed.partition.use(Rules([budget(period="month", time_zone="Asia/Kolkata", project_id="p")]))
    assert not feed.budgets()["b"].provisional
    feed.send("2026-05-28T11:00", project_id="p")
    state = feed.budgets()["b"]
    assert (state.spent, state.provisional) == ("1", False)


@pytest.mark.parametrize(("name", "value"), [("model", "other"), ("provider", "q"), ("currency", "EUR")])
def test_what_was_used_outside_of_its_scope_makes_no_budget_provisional(name: str, value: str) -> None:
    feed = Feed()
    feed.send("2026-05-02T10:00")
    named = {name: value} if name != "currency" else {}
    feed.partition.use(Rules([budget(time_zone="Asia/Kolkata", project_id="p", **named)]))
    assert feed.budgets()["b"].provisional is (not named)
    feed.partition.use(Rules([budget(name="c", time_zone="Asia/Kolkata", project_id="p", **{name: value})]))
    assert not feed.budgets()["c"].provisional


def test_of_days_that_have_left_nobody_knows_the_currency() -> None:
    feed = Feed()
    feed.send("2026-05-10T10:00")
    feed.send("2026-05-27T10:00")
    feed.partition.use(Rules(budget(name=each, period=each, currency="EUR") for each in ("month", "week", "day")))
    assert [state.name for state in feed.budgets().values() if state.provisional] == ["month"]


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize(("first", "then"), [("2026-05-10T10:00", []), ("2026-05-27T10:00", ["2026-05-09T10:00"])])
def test_days_that_left_or_were_never_taken_are_remembered_of_a_tenant(
    first: str, then: list[str], is_restarted: bool
) -> None:
    feed = Feed()
    feed.send(first)
    for late in then:
        feed.send("2026-05-27T10:01", late)
    for day in range(14, 29):
        feed.send(f"2026-05-{day:02}T12:00", tenant=STRANGER)
    if is_restarted:
        feed = restarted(feed)
    feed.partition.use(Rules([budget(period="month"), budget(name="week", period="week")]))
    states = feed.budgets()
    assert states["b"].provisional
    assert not states["week"].provisional


def test_a_tenant_that_used_nothing_for_long_is_forgotten_without_harm() -> None:
    feed = Feed(buckets=[Bucket()])
    feed.send("2026-05-01T10:00")
    feed.send("2026-06-05T10:00", tenant=STRANGER)
    assert TENANT in feed.partition.buckets[0].tenants
    feed.send("2026-07-05T10:00", tenant=STRANGER)
    assert TENANT not in feed.partition.buckets[0].tenants
    feed.partition.use(Rules([budget(period="month")]))
    assert not feed.budgets()["b"].provisional


def test_made_up_tenants_are_remembered_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "REMEMBERED_MAX", 3)
    feed = Feed(buckets=[Bucket()])
    for number, name in enumerate([name for name in (f"t{n}" for n in range(400)) if partition_of(name) == NUMBER][:9]):
        feed.send(f"2026-05-{number + 1:02}T10:00", tenant=name)
    feed.send("2026-05-20T10:00")
    assert len(feed.partition.buckets[0].tenants) == 4
    feed.partition.use(Rules([budget(tenant=STRANGER, period="month"), budget(tenant=STRANGER, name="d")]))
    assert {name: state.provisional for name, state in feed.budgets().items()} == {"b": True, "d": False}


def test_a_state_of_an_earlier_version_claims_nothing_of_days_that_may_have_left() -> None:
    feed = Feed(buckets=[Bucket()])
    feed.send("2026-05-20T10:00", tenant=STRANGER)
    fields = msgspec.msgpack.decode(checkpoint.encode_bucket(feed.partition, 0))
    assert fields[6] is True
    old = checkpoint.decode_bucket(msgspec.msgpack.encode([*fields[:7], [tenant[:4] for tenant in fields[7]]]))
    partition = checkpoint.restore(NUMBER, [old], Rules(), known_sources={1, 2}, silent_sources={2})
    partition.next_offset = partition.ready_offset
    partition.use(Rules([budget(period="month"), budget(name="day")]))
    feed.partition = partition
    assert {name: state.provisional for name, state in feed.budgets().items()} == {"b": True, "day": False}


def test_a_version_is_judged_at_the_time_of_its_change() -> None:
    """Where nothing flows, the last event may be long ago."""
    feed = Feed()
    feed.send("2026-05-01T10:00", amount=60 * USD)
    changed = {(TENANT, name, 1): ms("2026-05-02T09:00") for name in ("b", "month")}
    feed.partition.use(Rules([budget(), budget(name="month", period="month")], changed))
    (alert, *others) = feed.partition.reached
    assert {each.budget.name for each in (alert, *others)} == {"month"}
    assert alert.time_ms == ms("2026-05-02T09:00")


def test_a_settled_day_is_no_proof_of_what_was_spent() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:00")
    feed.send("2026-05-03T10:00", "2026-05-01T11:00")  # too late for the day, not for a budget of the month
    feed.partition.use(Rules([budget(period="month")]))
    assert feed.budgets()["b"].provisional


def test_a_day_that_ends_before_utc_does_is_not_read_from_utc_days() -> None:
    """London, clocks forward: the period ends at 23:00Z, and an event of the next is in the same UTC day."""
    feed = Feed()
    feed.send("2026-03-29T10:00")
    feed.send("2026-03-29T22:58", "2026-03-29T23:01")
    feed.partition.use(Rules([budget(time_zone="Europe/London")]))
    assert feed.budgets()["b"].provisional
    feed.send("2026-03-29T23:10")
    state = feed.budgets()["b"]
    assert (state.period_start, state.provisional) == (datetime(2026, 3, 29, 23, tzinfo=UTC), True)


def test_before_the_first_event_nothing_has_been_missed_east_of_greenwich_either() -> None:
    state = Feed(checked(tenant=TENANT, name="b", amount="1", currency="USD", time_zone="Asia/Tokyo")).budgets()["b"]
    assert state.period_start < EPOCH and not state.provisional


@pytest.mark.parametrize(("begin", "is_provisional"), [("18:30", True), ("18:31", False)])
def test_events_may_be_five_minutes_ahead_to_the_millisecond(begin: str, is_provisional: bool) -> None:
    """Kolkata's day begins at 18:30Z; the last event before the budget was five minutes ahead."""
    feed = Feed()
    moment = ms(f"2026-05-01T{begin}")
    behind = ms("2026-05-01T18:30") - AHEAD_MS_MAX - (0 if is_provisional else 1)
    pack = pack_of(RAW, 0, behind, behind + AHEAD_MS_MAX, USD, None)
    feed.partition.apply(0, pack)
    feed.positions[RAW] = 1
    feed.partition.use(Rules([budget(time_zone="Asia/Kolkata")]))
    feed.send("2026-05-01T18:31")
    assert moment >= behind
    assert feed.budgets()["b"].provisional is is_provisional


def test_the_period_before_says_when_it_is_provisional() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:00")
    feed.partition.use(Rules([budget(time_zone="Asia/Kolkata")]))
    feed.send("2026-05-01T11:00")
    feed.send("2026-05-01T19:00")
    state = feed.budgets()["b"]
    assert not state.provisional
    assert state.previous is not None
    assert (state.previous.spent, state.previous.provisional) == ("1", True)


def test_a_beginning_in_mid_log_claims_nothing_that_was_before() -> None:
    from_ms = counted_from(ms("2026-05-01T12:00"))
    feed = Feed(budget(), next_offset=9, complete_from_ms=from_ms, buckets=[Bucket(9, from_ms)])
    feed.send("2026-05-01T11:50")
    state = feed.budgets()["b"]
    assert (state.provisional, state.counts_since) == (True, datetime(2026, 5, 1, 12, tzinfo=UTC))
    feed.send("2026-05-02T00:10")
    assert not feed.budgets()["b"].provisional


def test_after_a_beginning_in_mid_log_a_gap_is_seen_again() -> None:
    from_ms = ms("2026-05-01T12:00")
    feed = Feed(next_offset=9, complete_from_ms=from_ms, buckets=[Bucket(9, from_ms)])
    feed.positions[RAW] = 100
    feed.send("2026-05-01T11:50")
    feed.positions[RAW] = 200  # a rater had repeated itself; what lies between stands before the beginning
    feed.send("2026-05-01T12:10")
    feed.positions[RAW] = 300
    with pytest.raises(CoverageGap):
        feed.send("2026-05-01T12:20")


def test_after_a_beginning_in_mid_log_a_repeat_is_no_stranger() -> None:
    """The rater sends again what stands before the beginning, and the broker's clock had stepped back since."""
    feed = Feed(next_offset=9, complete_from_ms=ms("2026-05-01T12:00"), buckets=[Bucket(9)])
    feed.positions[RAW] = 100
    feed.send("2026-05-01T11:50")
    feed.positions[RAW] = 99
    feed.send("2026-05-01T11:51")
    assert feed.partition.tally == {"counted": 1, "repeated": 1}


def test_a_new_version_is_silent_about_the_period_before() -> None:
    feed = Feed(budget(amount="100"))
    feed.send("2026-05-01T10:00", amount=60 * USD)
    feed.send("2026-05-02T10:00", amount=40 * USD)
    assert [alert.percent for alert in feed.alerts()] == [50]
    feed.partition.use(Rules([budget(amount="80", version=2)]))
    (alert,) = feed.alerts()
    assert (alert.version, alert.percent, alert.period_start.day, alert.place) == (2, 50, 2, None)
    feed.send("2026-05-02T10:01", "2026-05-01T10:01", amount=USD)
    assert feed.alerts() == [], "50 % of the day before is no news"
    feed.send("2026-05-02T10:02", "2026-05-01T10:02", amount=3 * USD)
    assert [(alert.percent, alert.period_start.day) for alert in feed.alerts()] == [(80, 1)]


def test_an_import_of_the_future_is_left_to_postgres() -> None:
    feed = Feed(budget())
    feed.send("2026-05-01T10:00", "2199-01-01T00:00", source=IMPORT)
    feed.send("2026-05-01T10:00", "2026-05-01T10:05", source=IMPORT)
    assert feed.partition.tally == {"ahead": 1, "counted": 1}
    assert feed.budgets()["b"].spent == "1"


def test_an_import_raises_nothing_until_an_event_comes() -> None:
    feed = Feed(budget(thresholds=[50, 100]))
    feed.send("2026-05-01T10:00", amount=20 * USD, source=IMPORT)
    assert feed.alerts() == []
    feed.send("2026-05-01T10:01", amount=0)
    assert [(alert.percent, alert.spent) for alert in feed.alerts()] == [(50, "20"), (100, "20")]


def test_a_pack_without_a_watermark_has_that_of_its_rows() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:00", watermark_ms=0)
    assert feed.partition.watermark_ms == ms("2026-05-01T10:00")
    assert feed.partition.tally == {"counted": 1}


def test_a_settled_window_is_published_once_more_and_then_leaves() -> None:
    feed = Feed()
    feed.send("2026-05-01T23:30")
    seen: list[tuple[str, str]] = []
    for hour in ["2026-05-02T00:10", "2026-05-02T01:10", "2026-05-02T02:10", "2026-05-03T00:10", "2026-05-03T01:10",
                 "2026-05-03T02:10", "2026-05-04T00:10"]:  # fmt: skip
        cut(feed.partition, publishes_all=True)
        feed.send(hour, amount=0)
        for key, value in cut(feed.partition, publishes_all=True).aggregates:
            if b"05-01" in key and (value is None or b'"settled":true' in value):
                seen.append((key.split(b"/")[2].decode(), "settled" if value else "gone"))
    assert seen == [("hour", "settled"), ("hour", "gone"), ("day", "settled"), ("day", "gone")]


def test_the_largest_window_fits_into_a_record() -> None:
    """No tenant can stop the aggregator with the names of its models."""
    feed = Feed()
    appended_ms = ms("2026-05-01T10:00")
    rows = [
        msgspec.structs.replace(
            pack_of(RAW, number, appended_ms, appended_ms, 10**18, None).rows[0],
            provider="\U0001f4b8" * 128, model=f"{number:03d}" + "\U0001f4b8" * 125, currency=currency,
            input_tokens=2**53, output_tokens=2**53,
        )
        for number, currency in enumerate(sorted(CURRENCIES) * 4)
    ]  # fmt: skip
    assert len(rows) > MODELS_MAX
    feed.partition.apply(0, Pack(1, *RAW, 0, len(rows), tuple(rows), appended_ms))
    each = cut(feed.partition, publishes_all=True)
    limit = topics.manifest()[topics.AGGREGATES].config["max.message.bytes"]
    assert isinstance(limit, int)
    assert 500_000 < max(len(value or b"") for _, value in each.aggregates) < limit - 100_000


def test_a_removed_budget_leaves_the_topic_and_the_state() -> None:
    feed = Feed(budget())
    feed.send("2026-05-01T10:00")
    state = {key: value for key, value in cut(feed.partition, publishes_all=True).state if value}
    feed.partition.use(Rules())
    each = cut(feed.partition, publishes_all=True)
    assert (budget_key(TENANT, "b"), None) in each.aggregates
    assert not any(
        tenant.counters for _, value in each.state if value for tenant in checkpoint.decode_bucket(value).tenants
    )
    assert state, "a new budget is stored at once"
    state |= {key: value for key, value in cut(feed.partition, publishes_all=True, writes_all=True).state if value}
    removed_meanwhile = checkpoint.restore(
        NUMBER, checkpoint.choose(state, NUMBER), Rules(), known_sources={1, 2}, silent_sources={2}
    )
    assert removed_meanwhile.gone_budgets == [(TENANT, "b")]


def test_a_gap_a_stranger_and_an_unknown_source_stop_the_fold() -> None:
    feed = Feed()
    feed.send("2026-05-01T10:00")
    with pytest.raises(TopicMadeAnew):
        feed.partition.apply(1, pack_of(RAW, 0, ms("2026-05-01T11:00"), ms("2026-05-01T11:00"), USD, None))
    with pytest.raises(CoverageGap):
        feed.partition.apply(1, pack_of(RAW, 5, ms("2026-05-01T11:00"), ms("2026-05-01T11:00"), USD, None))
    with pytest.raises(UnknownSource):
        feed.partition.apply(1, pack_of(SourcePartition(9, 0), 0, 0, 0, USD, None))


def test_of_several_numbers_of_buckets_the_least_reading_is_chosen() -> None:
    """A topic that has lost what an older set would need is no obstacle then."""
    stored: dict[bytes, bytes] = {}
    for buckets, packs in ((2, 1), (3, 5), (4, 3)):
        feed = Feed(buckets=[Bucket() for _ in range(buckets)])
        for _ in range(packs):
            feed.send("2026-05-01T10:00")
        for number in range(buckets):
            stored[checkpoint.key_of(NUMBER, buckets, number)] = checkpoint.encode_bucket(feed.partition, number)
    assert [record and record.folded for record in checkpoint.choose(stored, NUMBER)] == [5, 5, 5]
    del stored[checkpoint.key_of(NUMBER, 3, 1)]
    assert [record and record.folded for record in checkpoint.choose(stored, NUMBER)] == [3, 3, 3, 3]


def test_state_that_is_none() -> None:
    feed = Feed()
    value = checkpoint.encode_bucket(feed.partition, 0)
    newer = msgspec.msgpack.encode([checkpoint.STATE_VERSION + 1, *msgspec.msgpack.decode(value)[1:]])
    with pytest.raises(RecordUnreadable, match="an older aggregator must not follow a newer one"):
        checkpoint.choose({b"5|1|0": newer}, 5)
    with pytest.raises(RecordUnreadable, match="not a bucket"):
        checkpoint.choose({b"5|1|0": b"\xc1"}, 5)
    for key in (b"5|1", b"a|b|c", b"\xff"):
        with pytest.raises(RecordUnreadable, match="not a key"):
            checkpoint.choose({key: value}, 5)
    assert checkpoint.choose({b"6|1|0": value}, 5) == []


def test_made_up_names_of_many_tenants_cannot_make_a_bucket_too_large_to_send() -> None:
    """Nine tenants of one bucket with five hundred models of the longest names each: five megabytes of names."""
    partition = Partition(NUMBER, known_sources={1}, buckets=[Bucket()])
    tenants = [name for name in (f"t{number}" for number in range(500)) if partition_of(name) == NUMBER][:9]
    at = ms("2026-05-01T10:00")
    names = [(tenant, f"{model:03d}" + "\U0001f600" * 125) for tenant in tenants for model in range(MODELS_MAX)]
    for position, (tenant, model) in enumerate(names):
        pack = pack_of(RAW, position, at, at, USD, None)
        row = msgspec.structs.replace(pack.rows[0], tenant=tenant, model=model)
        partition.apply(position, msgspec.structs.replace(pack, rows=(row,)))
    assert len(checkpoint.encode_bucket(partition, 0)) < 4 * 1024 * 1024
    windows = [decode_aggregate(value) for _, value in cut(partition, publishes_all=True).aggregates if value]
    days = [window for window in windows if isinstance(window, Window) and window.window == "day"]
    assert sum(day.totals[0].events for day in days) == len(names)
