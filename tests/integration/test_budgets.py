"""Budgets and alerts at their doors: made, refused, removed, followed and listed, on real servers."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result
from pydantic import SecretStr

from meterstream.deploy import catalog, stack, topics
from meterstream.deploy.cli import alerts as alerts_command
from meterstream.deploy.cli.budget import described
from meterstream.deploy.cli.group import program
from meterstream.deploy.connections import Connection, administrator, resolve
from meterstream.deploy.kafka import client_options
from meterstream.deploy.live import alerts, budgets, follow
from meterstream.deploy.live.budgets import Changed
from meterstream.deploy.live.follow import Follower
from meterstream.deploy.live.top import removed_budgets
from meterstream.deploy.prepare import prepare
from meterstream.deploy.stack import process
from meterstream.deploy.stack.process import ProcessId
from meterstream.deploy.stack.state import Folder
from meterstream.processors.aggregation.catalog import BudgetCatalog
from meterstream.processors.catalog import CatalogFollower
from meterstream.schema.aggregate import budget_key
from meterstream.schema.alert import Alert, AlertData, alert_id, encode_alert
from meterstream.schema.catalog import BudgetEntry, decode_entry
from meterstream.schema.errors import BudgetInvalid, Unreachable, UsageError
from meterstream.schema.settings import Settings
from meterstream.schema.topics import AGGREGATES, ALERTS, CATALOG, PRICED, partition_of
from tests import topic_log

pytestmark = pytest.mark.stack

Call = Callable[..., Result]
DEADLINE_S = 120.0
DEADLINE = timedelta(seconds=DEADLINE_S)
WATERMARK = datetime(2026, 1, 31, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {"tenant": "acme", "name": "all", "amount": "10", "currency": "USD"}


@pytest.fixture(scope="module")
async def prepared(home: Path) -> Settings:
    """Tables, topics, prices."""
    await prepare(Settings(home=home))
    return resolve(Settings(home=home))


@pytest.fixture
async def settings(prepared: Settings) -> Settings:
    """Without budgets: the test's own begin. Triggers guard history, so they are off for this.

    The topic keeps what it has: of a budget with the same name it knows a later version.
    """
    async with administrator(prepared) as connection:
        await connection.execute(
            "SET session_replication_role = replica;"
            "TRUNCATE meter.budgets, meter.alerts; TRUNCATE meter.tenants CASCADE"
        )
    return prepared


@pytest.fixture
def call(settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs `meterstream ...` in this process."""
    monkeypatch.setenv("METERSTREAM_HOME", str(home))
    return lambda *arguments: CliRunner().invoke(program, arguments)


async def versions(settings: Settings) -> list[tuple[str, int, bool]]:
    async with administrator(settings) as connection:
        rows = await connection.fetch("SELECT * FROM meter.budgets ORDER BY tenant, name, version")
        return [(row["name"], row["version"], row["removed"]) for row in rows]


async def in_catalog(settings: Settings) -> BudgetCatalog:
    """What an aggregator that starts now would know."""
    known = BudgetCatalog()
    async with CatalogFollower(client_options(settings), known):
        return known


# Versions.


async def test_only_a_change_makes_a_version(settings: Settings) -> None:
    first = await budgets.add(settings, GOOD)
    assert (first.budget.version, first.budget.time_zone, first.is_new) == (1, "UTC", True)
    assert await budgets.add(settings, GOOD | {"amount": "10.00"}) == Changed(first.budget, is_new=False)
    assert (await budgets.add(settings, GOOD | {"thresholds": [90]})).budget.version == 2
    assert (await budgets.add(settings, GOOD | {"model": "gpt-4o"})).budget.version == 3
    assert await versions(settings) == [("all", 1, False), ("all", 2, False), ("all", 3, False)]
    known = (await in_catalog(settings)).rules()["acme", "all"].budget
    assert (known.version, known.model, known.thresholds) == (3, "gpt-4o", (50, 80, 100))


async def test_a_removal_is_a_version_and_the_same_budget_can_come_back(settings: Settings) -> None:
    await budgets.add(settings, GOOD | {"name": "gone"})
    assert (await budgets.remove(settings, "acme", "gone")).is_new
    assert not (await budgets.remove(settings, "acme", "gone")).is_new
    assert ("acme", "gone") not in (await in_catalog(settings)).rules()
    assert await budgets.list_budgets(settings) == []
    assert (await budgets.add(settings, GOOD | {"name": "gone"})).budget.version == 3
    assert ("acme", "gone") in (await in_catalog(settings)).rules()
    assert await versions(settings) == [("gone", 1, False), ("gone", 2, True), ("gone", 3, False)]
    with pytest.raises(UsageError, match="has no budget other"):
        await budgets.remove(settings, "acme", "other")


async def test_of_changes_at_once_none_is_lost_and_the_topic_has_the_last(settings: Settings) -> None:
    made = await asyncio.gather(
        *(budgets.add(settings, GOOD | {"name": "raced", "amount": str(n)}) for n in range(1, 9))
    )
    assert sorted(one.budget.version for one in made) == list(range(1, 9))
    last = max(made, key=lambda one: one.budget.version).budget
    known = (await in_catalog(settings)).rules()["acme", "raced"].budget
    assert (known.version, known.amount) == (8, last.amount)


async def test_what_top_knows_of_removed_budgets(settings: Settings) -> None:
    for name in ("gone", "back"):
        await budgets.add(settings, GOOD | {"name": name, "tenant": "top"})
        await budgets.remove(settings, "top", name)
    await budgets.add(settings, GOOD | {"name": "back", "tenant": "top"})
    known = await removed_budgets(settings)
    assert {key: version for key, version in known.items() if b"/top/" in key} == {budget_key("top", "gone"): 2}


async def test_without_a_zone_it_is_the_tenants(settings: Settings) -> None:
    async with administrator(settings) as connection:
        await connection.execute("INSERT INTO meter.tenants (tenant, time_zone) VALUES ('acme', 'Asia/Tokyo')")
    assert (await budgets.add(settings, GOOD)).budget.time_zone == "Asia/Tokyo"
    assert (await budgets.add(settings, GOOD | {"time_zone": "UTC"})).budget.time_zone == "UTC"


async def test_an_amount_is_exact_to_the_last_digit(settings: Settings) -> None:
    exact = "123456789012.123456789012"
    await budgets.add(settings, GOOD | {"name": "exact", "amount": exact})
    assert (await budgets.list_budgets(settings))[0].budget.amount == Decimal(exact)
    assert (await in_catalog(settings)).rules()["acme", "exact"].budget.amount == Decimal(exact)
    assert not (await budgets.add(settings, GOOD | {"name": "exact", "amount": exact})).is_new


async def test_where_the_broker_is_away_it_is_said_and_the_next_change_brings_it(settings: Settings) -> None:
    broken = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    with pytest.raises(Unreachable, match="version 1 of budget late is stored, but not published"):
        await budgets.add(broken, GOOD | {"name": "late"})
    assert not (await budgets.add(settings, GOOD | {"name": "late"})).is_new
    assert ("acme", "late") in (await in_catalog(settings)).rules()


async def test_a_change_publishes_its_budget_and_nothing_else(settings: Settings) -> None:
    """A book of prices may be large, and every rater would read all of it again."""
    await budgets.add(settings, GOOD)
    before = len(await topic_log.read(client_options(settings), CATALOG))
    await budgets.add(settings, GOOD | {"name": "other"})
    *_, record = records = await topic_log.read(client_options(settings), CATALOG)
    assert len(records) == before + 1
    entry = decode_entry(record.value or b"")
    assert isinstance(entry, BudgetEntry)
    async with administrator(settings) as connection:
        made_at = await connection.fetchval("SELECT created_at FROM meter.budgets WHERE name = 'other'")
    assert (entry.name, entry.changed_at) == ("other", made_at)


async def test_the_versions_that_may_still_matter_come_with_the_newest(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction leaves one record of a budget."""
    async with administrator(settings) as connection, connection.transaction():
        for version, days_ago in enumerate((30, 20, 7), 1):  # the first was followed too long ago
            await connection.execute(
                "INSERT INTO meter.budgets (tenant, name, version, amount, currency, period, thresholds, created_at) "
                "VALUES ('acme', 'moved', $1::int, $1::int, 'USD', 'month', '{50}', now() - make_interval(days => $2))",
                version,
                days_ago,
            )
    await budgets.remove(settings, "acme", "moved")
    await budgets.add(settings, GOOD | {"name": "moved"})
    assert await earlier(settings) == [(2, "2", False), (3, "3", False), (4, "3", True)]
    known = (await in_catalog(settings)).rules().versions("acme", "moved")
    assert [each.budget.version for each in known] == [2, 3, 4, 5]
    made = [each.changed_ms for each in known]
    assert made == sorted(made) and made[1] - made[0] == 13 * 86_400_000

    monkeypatch.setattr(catalog, "EARLIER_MAX", 2)
    async with administrator(settings) as connection:
        await catalog.publish(connection, settings)
    assert await earlier(settings) == [(3, "3", False), (4, "3", True)]
    monkeypatch.setattr(catalog, "EARLIER_BYTES", 300)
    await budgets.add(settings, GOOD | {"name": "moved"})
    assert await earlier(settings) == [(4, "3", True)]


async def earlier(settings: Settings) -> list[tuple[int, str, bool]]:
    """(version, amount, whether it is a removal) of what came with the newest record of the budget `moved`."""
    records = await topic_log.read(client_options(settings), CATALOG)
    entries = [decode_entry(record.value or b"") for record in records if record.key == b"budget/acme/moved"]
    assert isinstance(entries[-1], BudgetEntry)
    return [(each.version, each.amount, each.removed) for each in entries[-1].earlier]


async def test_history_cannot_be_changed(settings: Settings) -> None:
    await budgets.add(settings, GOOD)
    async with administrator(settings) as connection:
        for statement in ("UPDATE meter.budgets SET amount = 1", "DELETE FROM meter.budgets"):
            with pytest.raises(asyncpg.PostgresError, match="only ever appended"):
                await connection.execute(statement)


async def test_what_only_lists_logs_in_as_the_reader(settings: Settings) -> None:
    await budgets.add(settings, GOOD)
    least = settings.model_copy(update={"postgres_admin_dsn": SecretStr("")})
    assert [row.budget.name for row in await budgets.list_budgets(least, "acme")] == ["all"]
    assert await budgets.list_budgets(least, "globex") == []
    assert await alerts.list_alerts(least, limit=1) == []


# The command line. Its own event loop: these tests are not coroutines.

ADD = ("budget", "add", "all", "--tenant", "acme", "--amount", "500", "--currency", "USD")


def test_budget_commands(call: Call) -> None:
    assert "there is no budget" in call("budget", "ls").output
    more = ("--period", "week", "--week-start", "sunday", "--threshold", "90", "--threshold", "50", "--project", "p")
    assert call(*ADD, *more).output == "budget all of acme: version 1 added and published\n"
    assert "nothing changed, version 1 says the same" in call(*ADD, *more).output
    text = call("budget", "ls", "--tenant", "acme").output
    for part in ("500 USD a week from Sunday (UTC), alerts at 50, 90 %", "counts only project p", "nothing has been"):
        assert part in text
    [row] = json.loads(call("budget", "ls", "--json").output)
    assert (row["amount"], row["thresholds"], row["week_start"], row["state"]) == ("500", [50, 90], 7, None)
    assert "version 2 removed" in call("budget", "rm", "all", "--tenant", "acme").output
    assert "version 2 says the same" in call("budget", "rm", "all", "--tenant", "acme").output


def test_a_tenant_without_a_budget_is_told_from_one_that_nobody_has_ever_seen(call: Call) -> None:
    assert "no event and no budget of tenant acme was ever seen" in call("budget", "ls", "--tenant", "acme").output
    call(*ADD)
    call("budget", "rm", "all", "--tenant", "acme")
    assert "tenant acme has no budget; `meterstream budget add" in call("budget", "ls", "--tenant", "acme").output
    assert call("budget", "ls", "--tenant", "acm", "--json").output == "[]\n"


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_alerts_of_a_tenant_that_nobody_has_ever_seen(call: Call, more: tuple[str, ...]) -> None:
    call(*ADD)
    known = call("alerts", "ls", "--tenant", "acme", *more)
    stranger = call("alerts", "ls", "--tenant", "acm", *more)
    assert known.stderr == "" and known.stdout == stranger.stdout
    assert stranger.stderr == "no event and no budget of tenant acm was ever seen; names are compared exactly\n"


async def test_who_follows_alerts_of_a_tenant_that_nobody_has_ever_seen_is_told(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And follows on: its first event may come."""

    async def nothing(*_: object, **__: object) -> AsyncIterator[Alert]:
        async with asyncio.timeout(DEADLINE_S):
            while "was ever seen" not in (said := capsys.readouterr().err):
                await asyncio.sleep(0.01)
        assert said.startswith("no event and no budget of tenant acm ")
        none: list[Alert] = []
        for alert in none:
            yield alert

    monkeypatch.setattr(alerts, "tail", nothing)
    await alerts_command._tail(settings, {"tenant": "acm"}, as_json=True)
    assert capsys.readouterr().out == ""


async def place(connection: Connection, tenant: str, aggregates: int | None, counted: int | None, ago: str) -> None:
    """Postgres holds the tenant's partition of `usage.priced` up to offset 9."""
    await connection.execute("DELETE FROM meter.sink_positions")
    insert = (
        "INSERT INTO meter.sink_positions (topic, partition, next_offset, epoch, cluster_id, updated_at,"
        f" counted_offset, counted_watermark) VALUES ($1, $2, $3, 1, '', now() - interval '{ago}', $4, $5)"
    )
    await connection.execute(insert, PRICED, partition_of(tenant), 9, None, None)
    if aggregates is not None:
        at = None if counted is None else WATERMARK
        await connection.execute(insert, AGGREGATES, partition_of(tenant), aggregates, counted, at)


@pytest.mark.parametrize(
    ("aggregates", "counted", "is_behind"),
    [
        (5, 8, True),  # how long after the aggregator's end it came, and how late, is all the same
        (5, 9, False),  # it is quiet
        (5, None, False),  # an aggregator has written, and nobody knows how far it was
        (0, None, True),  # none has ever written
        (None, None, True),
    ],
)
async def test_sums_that_lack_what_was_stored_say_so(
    settings: Settings, aggregates: int | None, counted: int | None, is_behind: bool
) -> None:
    tenant = f"t{uuid.uuid4().hex}"
    await budgets.add(settings, GOOD | {"tenant": tenant})
    async with administrator(settings) as connection:
        await place(connection, tenant, aggregates, counted, "6 s")
    [row] = await budgets.list_budgets(settings, tenant)
    since = row.created_at if counted is None else WATERMARK
    assert row.behind_since == (since if is_behind else None)
    assert ("behind: what was priced since" in "\n".join(described(row))) is is_behind


@pytest.mark.parametrize("is_counting", [True, False])
async def test_while_events_come_the_sums_are_behind_only_where_nobody_counts(
    settings: Settings, is_counting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "BEHIND", DEADLINE if is_counting else timedelta(seconds=0.5))
    tenant = f"t{uuid.uuid4().hex}"
    await budgets.add(settings, GOOD | {"tenant": tenant})
    move = (
        "UPDATE meter.sink_positions SET updated_at = now(), next_offset = next_offset + 1,"
        " counted_offset = counted_offset + $1"
    )
    async with administrator(settings) as connection:
        await place(connection, tenant, 5, 8, "0 s")  # and one record is never counted
        listed = asyncio.create_task(budgets.list_budgets(settings, tenant))
        while not listed.done():
            await connection.execute(move, int(is_counting))
            await asyncio.sleep(0.01)
    [row] = await listed
    assert row.behind_since == (None if is_counting else WATERMARK)


@pytest.mark.parametrize(("remaining", "left"), [(9, "at most 9 USD left"), (-9, "at least 9 USD too much")])
async def test_a_lower_bound_of_what_was_spent_bounds_what_is_left(
    settings: Settings, remaining: int, left: str
) -> None:
    tenant = f"t{uuid.uuid4().hex}"
    await budgets.add(settings, GOOD | {"tenant": tenant, "period": "day"})
    async with administrator(settings) as connection:
        await connection.execute(
            "INSERT INTO meter.budget_states (tenant, name, version, currency, amount, period, time_zone, spent,"
            " remaining, percent, thresholds, reached, provisional, priced_partition, priced_offset, period_start,"
            " period_end) VALUES ($1, 'all', 1, 'USD', 10, 'day', 'UTC', 10 - $2::int, $2::int, 10, '{50}', '{}', true,"
            " 0, 9, now(), now() + interval '1 day')",
            tenant, remaining,
        )  # fmt: skip
    [row] = await budgets.list_budgets(settings, tenant)
    assert f"; {left}" in "\n".join(described(row))


async def test_the_period_before_is_shown_where_late_events_count_in_it(settings: Settings) -> None:
    tenant = f"t{uuid.uuid4().hex}"
    await budgets.add(settings, GOOD | {"tenant": tenant, "period": "day"})
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    async with administrator(settings) as connection:
        await connection.execute(
            "INSERT INTO meter.budget_states (tenant, name, version, currency, amount, period, time_zone, spent,"
            " remaining, percent, thresholds, reached, provisional, priced_partition, priced_offset, period_start,"
            " period_end, previous_start, previous_end, previous_spent, counts_since)"
            " VALUES ($1, 'all', 1, 'USD', 10, 'day', 'UTC', 1, 9, 10, '{50}', '{}', false, 0, 9,"
            " $2, $3, $4, $2, 6, $5)",
            tenant, day, day + timedelta(days=1), day - timedelta(days=1), day - timedelta(hours=12),
        )  # fmt: skip
    [row] = await budgets.list_budgets(settings, tenant)
    assert row.spent is not None and not row.spent.provisional and row.spent.previous is not None
    text = "\n".join(described(row))
    assert "spent 1 USD, 10 %" in text and "the day before, until" in text
    assert "spent at least 6 USD, late events included" in text


def test_every_reason_is_named_at_once_and_nothing_is_changed(call: Call) -> None:
    call(*ADD)
    thresholds = [word for percent in range(1, 31) for word in ("--threshold", str(percent))]
    wrong = call(
        "budget", "add", "all", "--tenant", "acme", "--amount", "-5", "--currency", "USX", "--zone", "Mars/Base",
        "--period", "year", "--anchor-day", "1.5", "--project", "", "--model", "m\x85", *thresholds,
    )  # fmt: skip
    assert isinstance(wrong.exception, BudgetInvalid)
    said = str(wrong.exception).splitlines()
    assert said[0] == "nothing was changed:"
    assert {line.strip(" -").partition(":")[0] for line in said[1:]} == {
        "amount", "currency", "zone", "period", "anchor-day", "project", "model", "threshold",
    }  # fmt: skip
    assert "did you mean" in str(wrong.exception) and "1 to 20 of them, these are 30" in str(wrong.exception)
    assert not any(word in str(wrong.exception) for word in ("Input should", "String should", "Value error"))
    words = str(call(*ADD, "--period", "week", "--week-start", "tue", "--threshold", "all").exception)
    assert "--week-start: a weekday, such as monday" in words and "--threshold: a whole percent" in words
    missing = str(call("budget", "add", "all").exception)
    assert all(f"--{name}: is missing" in missing for name in ("tenant", "amount", "currency"))
    [row] = json.loads(call("budget", "ls", "--json").output)
    assert (row["version"], row["amount"]) == (1, "500")


@pytest.mark.parametrize("amount", ["nan", "inf", "1e400", "0", "0.1e-20", "1,5", "", "0x10"])
def test_an_amount_that_is_none_is_refused(call: Call, amount: str) -> None:
    assert "--amount: " in str(call(*ADD, "--amount", amount).exception)
    assert "there is no budget" in call("budget", "ls").output


def test_help_says_why_there_is_no_budget_without_a_tenant(call: Call) -> None:
    assert "no budget without a tenant" in " ".join(call("budget", "--help").output.split())


# Alerts.


def made_up(
    budget: str, percent: int = 50, at: datetime = datetime(2026, 11, 21, tzinfo=UTC), tenant: str = "acme"
) -> Alert:
    data = AlertData(
        rule="budget", budget=budget, version=1, tenant=tenant, currency="USD", amount="10", percent=percent,
        threshold="5", spent="5.5", period="month", time_zone="UTC", period_start=at,
        period_end=at + timedelta(days=30),
    )  # fmt: skip
    return Alert(id=alert_id(tenant, budget, 1, at, percent), time=at, tenant=tenant, data=data)


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(**client_options(settings)) as open_producer:
        yield open_producer


async def test_tail_begins_now_and_shows_each_alert_once(settings: Settings, producer: AIOKafkaProducer) -> None:
    await producer.send_and_wait(ALERTS, encode_alert(made_up("before")), partition=0)
    async with Follower(settings, ALERTS, from_beginning=False) as follower:
        for partition in (0, 1, 0):  # an aggregator that crashed sends it again, after a growth elsewhere
            await producer.send_and_wait(ALERTS, encode_alert(made_up("now")), partition=partition)
        await producer.send_and_wait(ALERTS, b"no alert", partition=2)
        for partition in range(4):
            await producer.send_and_wait(ALERTS, encode_alert(made_up(f"last-{partition}")), partition=partition)
        once, found = alerts.Once(), list[Alert]()
        async with asyncio.timeout(DEADLINE_S):
            while len([alert for alert in found if alert.data.budget.startswith("last")]) < 4:
                found += [alert async for alert in alerts.read_on(follower, once)]
    assert sorted(alert.data.budget for alert in found) == ["last-0", "last-1", "last-2", "last-3", "now"]


async def test_from_the_beginning_it_shows_what_was_there(settings: Settings, producer: AIOKafkaProducer) -> None:
    for budget in ("another", "kept"):
        await producer.send_and_wait(ALERTS, encode_alert(made_up(budget)), partition=3)
    async with asyncio.timeout(DEADLINE_S):
        async for alert in alerts.tail(settings, from_beginning=True):
            if alert.data.budget == "kept":
                break
        async for alert in alerts.tail(settings, from_beginning=True, tenant="acme", budget="kept"):
            assert alert.data.budget == "kept", "the other one came first"
            break
        await producer.send_and_wait(ALERTS, encode_alert(made_up("kept", tenant="globex")), partition=3)
        async for alert in alerts.tail(settings, from_beginning=True, tenant="globex"):
            assert alert.tenant == "globex"
            break


def test_the_ids_that_are_known_are_bounded() -> None:
    once = alerts.Once(ids_max=3)
    assert [once.is_new(name) for name in "abcab"] == [True, True, True, False, False]
    assert once.is_new("d") and once.is_new("a"), "the oldest was forgotten"
    assert len(once._seen) == 3


async def test_a_broker_that_is_away_or_has_no_topics_is_said(settings: Settings) -> None:
    with pytest.raises(Unreachable, match="cannot be read"):
        async with Follower(settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"}), ALERTS):
            pass


async def read_while_kafka_dies(settings: Settings, kafka: ProcessId) -> None:
    async with Follower(settings, ALERTS) as follower, asyncio.timeout(DEADLINE_S):
        assert await follower.read(0.1) == []
        process.send(kafka, signal.SIGKILL)
        while True:
            await follower.read(0.2)


async def test_a_broker_that_goes_away_is_said_and_the_end_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SILENT_MAX_S", 0.5)
    home = tmp_path / "home"
    stack.up(home, durable=False, bind_to_parent=True)
    try:
        own = resolve(Settings(home=home))
        await topics.apply(own)
        known = Folder(home).load()
        assert known is not None
        with pytest.raises(Unreachable, match="cannot be read: no broker answers"):
            await read_while_kafka_dies(own, known.processes["kafka"])
    finally:
        stack.down(home)
