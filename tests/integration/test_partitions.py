"""Leaves on a real server: what stands ready, what is made when a row needs it, what is dropped and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from meterstream.deploy.stack import Addresses
from meterstream.processors.rating.admit import BACKFILL_AGE_MAX
from meterstream.sinks.postgres import migrate, partitions
from meterstream.sinks.postgres.partitions import Needs

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.stack

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOW.date()
ALL_PARENTS = ("ledger", "rollup_hourly", "rollup_daily", "duplicates", "rejected", "claims_timed", "claims_hashed")


@pytest.fixture
async def dsn(stack: Addresses, database_name: str) -> str:
    await migrate.up(stack.dsn(database=database_name))
    return stack.dsn(database=database_name)


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "Asia/Kathmandu"})  # +05:45: a trap
    yield connection
    await connection.close()


async def leaves(connection: Connection, parent: str) -> dict[str, tuple[datetime, datetime]]:
    rows = await connection.fetch("SELECT leaf, lower_at, upper_at FROM meter.leaves WHERE parent = $1", parent)
    return {row["leaf"]: (row["lower_at"], row["upper_at"]) for row in rows}


async def ensure(connection: Connection, *days: date, policy: partitions.Policy = "month") -> list[str]:
    return await partitions.ensure(connection, Needs(occurred=frozenset(days)), policy=policy, today=TODAY)


async def test_what_stands_ready_by_month(connection: Connection) -> None:
    made = await partitions.ensure(connection, partitions.standing_needs(NOW, "month", 3), policy="month", today=TODAY)
    months = ["2026_10", "2026_11", "2026_12", "2027_01", "2027_02"]
    for parent in ("ledger", "rollup_hourly", "rollup_daily", "duplicates", "rejected"):
        assert sorted(await leaves(connection, parent)) == [f"{parent}_{month}" for month in months]
    assert (await leaves(connection, "rollup_daily"))["rollup_daily_2026_11"] == (
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
    )
    days = await leaves(connection, "claims_timed")
    assert (min(days), max(days), len(days)) == ("claims_timed_2026_10_06", "claims_timed_2026_11_24", 50)
    assert len(await leaves(connection, "claims_hashed")) in (2, 3)
    assert sorted(made) == sorted([leaf for parent in ALL_PARENTS for leaf in await leaves(connection, parent)])
    again = await partitions.ensure(connection, partitions.standing_needs(NOW, "month", 3), policy="month", today=TODAY)
    assert again == []


async def test_a_change_of_policy_never_overlaps(connection: Connection) -> None:
    await ensure(connection, date(2026, 11, 21), policy="day")
    assert list(await leaves(connection, "ledger")) == ["ledger_2026_11_21"]
    assert list(await leaves(connection, "rollup_hourly")) == ["rollup_hourly_2026_11"]
    await ensure(connection, date(2026, 11, 20), date(2026, 11, 21), date(2026, 12, 5), policy="month")
    assert sorted(await leaves(connection, "ledger")) == ["ledger_2026_11_20", "ledger_2026_11_21", "ledger_2026_12"]
    await ensure(connection, date(2026, 12, 6), policy="day")
    assert len(await leaves(connection, "ledger")) == 3


async def test_late_rows_get_large_leaves(connection: Connection) -> None:
    await ensure(connection, date(2026, 10, 3), date(2019, 5, 5), date(2019, 11, 5), policy="day")
    assert sorted(await leaves(connection, "ledger")) == ["ledger_2019", "ledger_2026_10"]


@pytest.mark.parametrize(("policy", "ahead_max"), [("month", 24), ("day", 14)])
def test_no_backfill_needs_more_leaves_than_there_may_be(policy: partitions.Policy, ahead_max: int) -> None:
    """Today may be any day: leaves are counted for all that is admitted on it, and what stands ready."""
    for today in (TODAY, date(2028, 2, 29), date(2027, 12, 31), date(2027, 1, 1)):
        now = datetime(today.year, today.month, today.day, tzinfo=UTC)
        ahead = partitions.standing_needs(now, policy, ahead_max).occurred
        days = {today - timedelta(days=age) for age in range(BACKFILL_AGE_MAX.days + 1)} | ahead
        sizes = {(size, day) for day in days if (size := partitions.size_of(day, today, policy))}
        cut = {"year": slice(0, 4), "month": slice(0, 7), "day": slice(None)}
        assert len({day.isoformat()[cut[size]] for size, day in sizes}) <= partitions.LEDGER_LEAVES_MAX


async def test_processes_at_the_same_time_make_each_leaf_once(dsn: str) -> None:
    connections = [await asyncpg.connect(dsn) for _ in range(4)]
    needs = partitions.standing_needs(NOW, "month", 1)
    made = await asyncio.gather(*(partitions.ensure(c, needs, policy="month", today=TODAY) for c in connections))
    names = [name for names in made for name in names]
    assert len(names) == len(set(names)) > 50
    await asyncio.gather(*(c.close() for c in connections))


async def test_making_a_leaf_waits_for_no_writer_and_no_reader(connection: Connection, dsn: str) -> None:
    await ensure(connection, TODAY)
    other = await asyncpg.connect(dsn)
    async with other.transaction():
        await other.execute("LOCK TABLE meter.ledger IN ROW EXCLUSIVE MODE; SELECT FROM meter.ledger")
        made = await ensure(connection, date(2027, 3, 1))
        assert sorted(made) == ["ledger_2027_03", "rollup_daily_2027_03", "rollup_hourly_2027_03"]
    await other.close()


async def test_claims_are_dropped_after_their_window_only(connection: Connection) -> None:
    now = datetime.now(UTC)
    today = now.date()
    generation = partitions.generation_of(now)
    needs = Needs(
        claim_days=frozenset(today - timedelta(days=age) for age in (0, 44, 89, 92, 125)),
        claim_generations=frozenset({generation - 4, generation - 3, generation - 2, generation - 1, generation}),
    )
    await partitions.ensure(connection, needs, policy="month", today=today)

    far_behind = await partitions.drop_expired(connection, newest_append=now - timedelta(days=40))
    assert f"claims_timed_{today - timedelta(days=125):%Y_%m_%d}" not in far_behind
    dropped = await partitions.drop_expired(connection, newest_append=now)
    assert {f"claims_timed_{today - timedelta(days=age):%Y_%m_%d}" for age in (92, 125)} <= {*dropped, *far_behind}
    kept = {*await leaves(connection, "claims_timed"), *await leaves(connection, "claims_hashed")}
    kept.discard(f"claims_hashed_{generation - 3}")  # goes when its last day is so old
    assert kept == {
        *(f"claims_timed_{today - timedelta(days=age):%Y_%m_%d}" for age in (0, 44, 89)),
        f"claims_hashed_{generation - 2}",
        f"claims_hashed_{generation}",
        f"claims_hashed_{generation - 1}",
    }


async def test_duplicates_and_rejected_records_are_kept_twice_as_long(connection: Connection) -> None:
    now = datetime.now(UTC)
    old, young = now - timedelta(days=150), now - timedelta(days=60)
    needs = Needs(appended=frozenset({old.date(), young.date(), now.date()}))
    await partitions.ensure(connection, needs, policy="month", today=now.date())
    dropped = await partitions.drop_expired(connection, newest_append=now)
    for parent in ("duplicates", "rejected"):
        assert f"{parent}_{old:%Y_%m}" in dropped
        assert {f"{parent}_{young:%Y_%m}", f"{parent}_{now:%Y_%m}"} <= {*await leaves(connection, parent)}


async def test_the_database_never_drops_younger_claims_whatever_it_is_asked(connection: Connection) -> None:
    today = datetime.now(UTC).date()
    needs = Needs(claim_days=frozenset({today - timedelta(days=89)}))
    await partitions.ensure(connection, needs, policy="month", today=today)
    far_ahead = datetime.now(UTC) + timedelta(days=400)
    assert await partitions.drop_expired(connection, newest_append=far_ahead) == []


@pytest.mark.parametrize(
    "call",
    [
        "ensure_partition('prices', now())",
        "ensure_partition('ledger', NULL)",
        "ensure_partition('ledger', now(), 'hour')",
    ],
)
async def test_other_partitions_are_refused(connection: Connection, call: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await connection.execute(f"SELECT meter.{call}")
