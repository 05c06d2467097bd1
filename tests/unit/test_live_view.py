"""The live view: which record counts, what today is, how fast it goes, and what is let go of."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meterstream.deploy.live.top_text import NOTHING, plain, rows, to_json
from meterstream.deploy.live.view import RATE_SPAN, Live, TenantNow
from meterstream.schema.aggregate import (
    Aggregate,
    BudgetState,
    Progress,
    Sums,
    Window,
    budget_key,
    encode_aggregate,
    key_of,
)
from meterstream.schema.errors import RecordUnreadable

TODAY = datetime(2026, 11, 21, tzinfo=UTC)
NOW = TODAY.replace(hour=12)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


def usd(events: int, amount: str | None = "1", **more: Any) -> Sums:
    return Sums(currency="USD", events=events, amount=amount, **more)


def window(tenant: str, offset: int, *totals: Sums, start: datetime = TODAY, **more: Any) -> Window:
    fields: dict[str, Any] = {"window": "day", "end": start + DAY, "partition": 0, "settled": False} | more
    return Window(tenant=tenant, start=start, offset=offset, totals=totals, models=(), **fields)


def state(name: str, offset: int, spent: str = "80", **more: Any) -> BudgetState:
    fields: dict[str, Any] = {
        "tenant": "acme", "version": 1, "currency": "USD", "amount": "100", "period": "day", "time_zone": "UTC",
        "period_start": TODAY, "period_end": TODAY + DAY, "remaining": "20", "percent": f"{spent}.00",
        "thresholds": (50,), "reached": (50,), "provisional": False, "counts_since": None, "partition": 0,
    } | more  # fmt: skip
    return BudgetState(name=name, offset=offset, spent=spent, **fields)


def feed(live: Live, *records: Aggregate, at: datetime = NOW) -> Live:
    for record in records:
        live.apply(key_of(record), encode_aggregate(record), at)
    return live


def test_a_removed_budget_does_not_come_back_where_its_tombstone_is_gone() -> None:
    live = feed(Live(), state("all", 8), state("other", 8))
    live.leave_out({budget_key("acme", "all"): 2})
    assert only(live).budgets == (state("other", 8),)
    feed(live, state("all", 9, version=2))
    assert live.budget("acme", "all") is None
    feed(live, state("all", 10, version=3), state("all", 11, version=2))
    assert live.budget("acme", "all") == state("all", 10, version=3)


def only(live: Live, now: datetime = NOW) -> TenantNow:
    [tenant] = live.tenants(now)
    return tenant


def test_currencies_stay_apart_corrections_count_and_the_unpriced_has_no_amount() -> None:
    live = feed(
        Live(),
        window(
            "acme",
            9,
            usd(7, "1.000000000001", errors=2, adjustment_amount="-0.5"),
            Sums(currency="EUR", events=1, amount="2"),
            Sums(currency="XXX", events=3, unpriced_events=3),
        ),
    )
    tenant = only(live)
    assert (tenant.events, tenant.errors, tenant.unpriced_events) == (11, 2, 3)
    assert tenant.spend_pico == {"EUR": 2 * 10**12, "USD": 500_000_000_001}


def test_the_higher_offset_wins_in_whatever_order_they_come() -> None:
    records: list[Aggregate] = [window("acme", offset, usd(offset)) for offset in range(1, 20)]
    records += [state("all", offset, str(offset)) for offset in range(1, 20)]
    records += [Progress(partition=1, offset=offset, watermark=NOW) for offset in range(1, 20)]
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    random.Random(seed).shuffle(records)
    live = feed(Live(), *records)
    assert only(live).events == 19
    assert [budget.spent for budget in only(live).budgets] == ["19"]
    assert live.progress[1].offset == 19


def test_hours_are_not_added_to_days_and_yesterday_is_not_today() -> None:
    live = feed(
        Live(),
        window("acme", 1, usd(5), start=TODAY - DAY),
        window("acme", 2, usd(3)),
        window("acme", 2, usd(3), window="hour", end=TODAY + DAY / 24),
    )
    assert only(live).events == 3
    assert only(live, NOW - DAY).events == 5
    assert live.tenants(NOW + DAY) == [], "a new day begins with nobody"


def test_a_tombstone_ends_a_key_and_an_old_state_after_it_does_not_come_back() -> None:
    live = feed(Live(), state("all", 8), state("other", 8), window("acme", 8, usd(1)))
    live.apply(budget_key("acme", "all"), None, NOW)
    feed(live, state("all", 7))
    assert [budget.name for budget in only(live).budgets] == ["other"]
    feed(live, state("all", 9, version=2))
    assert [budget.name for budget in only(live).budgets] == ["all", "other"]
    live.apply(key_of(window("acme", 8, usd(1))), None, NOW)
    assert only(live).events == 0
    live.apply(b"window/nobody/day/2026-11-21T00", None, NOW)


def test_the_rate_is_what_successive_snapshots_differ_in_and_fades() -> None:
    live = feed(Live(), window("acme", 1, usd(1_000_000)), at=NOW - 9 * SECOND)
    assert only(live).events_per_s == 0, "when its first million came, nobody knows"
    feed(live, window("acme", 2, usd(1_000_050)), at=NOW - 5 * SECOND)
    feed(live, window("acme", 1, usd(999_000)), at=NOW - 4 * SECOND)  # of an aggregator that was paused
    feed(live, window("acme", 3, usd(1_000_080)), at=NOW)
    assert only(live).events_per_s == pytest.approx(8.0)
    assert only(live, NOW + 6 * SECOND).events_per_s == pytest.approx(3.0)
    assert only(live, NOW + RATE_SPAN).events_per_s == 0


def test_days_gone_by_and_their_tenants_are_let_go_of() -> None:
    live = Live()
    for day in range(400):
        start = TODAY + day * DAY
        for offset in (1, 2):
            feed(live, window(f"t-{day}", offset, usd(offset), start=start), at=start)
    assert len(live._days) == 2 and len(live._steps) <= 2
    feed(live, window("t-1", 9, usd(1), start=TODAY))
    assert len(live._days) == 2


def test_who_has_a_budget_is_shown_before_the_first_event_and_most_events_come_first() -> None:
    live = feed(Live(), state("all", 1), window("b", 1, usd(2)), window("c", 1, usd(5)), window("a", 1, usd(2)))
    assert [tenant.tenant for tenant in live.tenants(NOW)] == ["c", "a", "b", "acme"]


def test_what_is_no_record_of_ours_is_refused_and_changes_nothing() -> None:
    live = feed(Live(), window("acme", 1, usd(1)))
    for value in (b"", b"{}", b'{"kind":"window"}', b"\xff"):
        with pytest.raises(RecordUnreadable):
            live.apply(b"window/acme/day/2026-11-21T00", value, NOW + DAY)
    assert only(live).events == 1
    assert live.newest_at == NOW


# As text.


def test_the_table_says_what_is_partial_provisional_or_of_an_earlier_period() -> None:
    live = feed(
        Live(),
        window("acme", 1, usd(1234, "1.5"), partial=True),
        state("mid", 1, provisional=True),
        state("old", 1, period_start=TODAY - DAY, period_end=TODAY),
        state("all", 1),
    )
    text = plain(live, NOW, 40)
    assert "1,234+" in text and "events of the day may be missing" in text
    assert "all 80.00%, mid at least 80.00%, old nothing this day" in text
    assert "1 tenant, 1,234+ events today (UTC)" in text
    assert text.count("1.5+ USD") == 2, "in the row and in the sum"
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_what_is_not_counted_in_time_is_said_and_only_that() -> None:
    live = feed(Live(), Progress(partition=0, offset=7, watermark=NOW), Progress(partition=1, offset=9, watermark=NOW))
    assert live.missing({0: 7, 1: 8, 2: 0}) == 0
    assert live.missing({0: 9, 1: 8, 2: 3}) == 2 + 3
    assert "behind" not in plain(live, NOW, 40)
    live.uncounted = 5
    for view in (live, feed(live, window("acme", 1, usd(1)))):
        assert "behind: 5 records of usage.priced not counted yet; `meterstream status`" in plain(view, NOW, 40)
    assert json.loads(to_json(live, NOW, 40))["uncounted_records"] == 5


def test_what_is_left_out_is_counted_and_still_in_the_total() -> None:
    live = feed(Live(), *(window(f"t-{number}", 1, usd(number)) for number in range(1, 6)))
    text = plain(live, NOW, 2)
    assert "t-5" in text and "t-4" in text and "t-3" not in text
    assert "3 more tenants" in text and "5 tenants, 15 events" in text
    assert json.loads(to_json(live, NOW, 2))["tenants_total"] == 5


def test_nothing_says_what_to_look_at() -> None:
    assert plain(Live(), NOW, 40) == NOTHING


def test_a_tenants_name_cannot_write_on_the_terminal() -> None:
    live = feed(Live(), window("a\x1b[2Jb", 1, usd(1)))
    [(name, *_)] = rows(live.tenants(NOW), NOW)
    assert name.isprintable()


def test_json_has_amounts_as_text_and_budgets_as_the_contract_has_them() -> None:
    live = feed(Live(), window("acme", 1, usd(1, "0.000000000001")), state("all", 1))
    [tenant] = json.loads(to_json(live, NOW, 40))["tenants"]
    assert tenant["spend"] == [{"currency": "USD", "amount": "0.000000000001"}]
    assert tenant["budgets"] == [json.loads(encode_aggregate(state("all", 1)))]
