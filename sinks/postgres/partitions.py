"""Which leaves must exist, and making them; dropping claims after their window.

The database's functions know the bounds (schema/sql, ensure_partition); here is only what is wanted when.
Making a leaf locks nobody out. Dropping one needs its parent for a moment: with a short lock_timeout,
so that no reader or writer ever queues behind it, and another try later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import asyncpg

from meterstream.schema.ids import ID_WINDOW_DAYS
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection

Policy = Literal["month", "day"]

CLAIM_DAYS_AHEAD: Final = 3
CLAIM_DAYS_BACK: Final = ID_WINDOW_DAYS + 1
"""An id may be as old as the window when the broker receives it."""
CLAIMS_KEEP_DAYS: Final = 90
"""The window, and all that a record may wait in our topics before it is stored (35 days raw, 7 days priced): a
partition that lags, or a broker's clock that is wrong by less than the rest, never meets a claim that is gone."""
GENERATION_DAYS: Final = 45
LEDGER_LEAVES_MAX: Final = 120
"""Ten years by month. Above this, planning a query that is not cut to a range of time costs milliseconds, and far
above it one statement needs more locks than a server has by default."""
YEARS_BY_MONTH: Final = 2
"""So many years before and after this one have leaves by month, all others by year."""

LOCK_TIMEOUT: Final = "400ms"
ATTEMPTS_MAX: Final = 10
RETRY_DELAY_S: Final = 0.3

_EPOCH: Final = date(1970, 1, 1)
_NAME_OF_SIZE: Final = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d"}
_BY_OCCURRENCE: Final = ("ledger", "rollup_hourly", "rollup_daily")
_BY_APPEND: Final = ("duplicates", "rejected")


@dataclass(frozen=True)
class Needs:
    """The leaves that some rows need, as moments within them."""

    occurred: frozenset[date] = frozenset()
    appended: frozenset[date] = frozenset()
    claim_days: frozenset[date] = frozenset()
    claim_generations: frozenset[int] = frozenset()


def generation_of(appended_at: datetime) -> int:
    """The generation of hashed claims in which an event of this append time is claimed."""
    return int(appended_at.timestamp()) // 86400 // GENERATION_DAYS


def standing_needs(now: datetime, policy: Policy, ahead: int) -> Needs:
    """What must exist at any time: the current leaves, `ahead` more of them, and the window of claims."""
    today = now.date()
    months = frozenset(_add_months(today.replace(day=1), step) for step in range(-1, ahead + 1))
    days = frozenset(today + timedelta(days=step) for step in range(-1, ahead + 1)) if policy == "day" else frozenset()
    return Needs(
        occurred=months | days,
        appended=months,
        claim_days=frozenset(today + timedelta(days=step) for step in range(-CLAIM_DAYS_BACK, CLAIM_DAYS_AHEAD + 1)),
        claim_generations=frozenset(range(generation_of(now) - 1, generation_of(now + timedelta(days=30)) + 1)),
    )


def size_of(day: date, today: date, policy: Policy) -> str:
    """Small leaves for the present, large ones for what lies far from it: their number stays bounded."""
    if abs(day.year - today.year) > YEARS_BY_MONTH:
        return "year"
    if policy == "day" and day >= today.replace(day=1):
        return "day"
    return "month"


async def ensure(connection: Connection, needs: Needs, *, policy: Policy, today: date) -> list[str]:
    """Makes the leaves that are missing, each in its own transaction; returns their names. May block.

    Raises asyncpg.PostgresError when one cannot be made.
    """
    wanted = [(parent, _midnight(day)) for day in sorted(needs.occurred) for parent in _BY_OCCURRENCE]
    wanted += [(parent, _midnight(day)) for day in sorted(needs.appended) for parent in _BY_APPEND]
    parents, moments = [parent for parent, _ in wanted], [moment for _, moment in wanted]
    made: list[str | None] = []
    # One call a leaf, not a moment. More than one round only where a month has some leaves by day already.
    while missing := await connection.fetch(query("missing_leaves"), parents, moments):
        for parent, moment, size in _one_of_each(missing, policy, today):
            made.append(await _retried(connection, "SELECT meter.ensure_partition($1, $2, $3)", parent, moment, size))
    for day in sorted(needs.claim_days):
        made.append(await _retried(connection, "SELECT meter.ensure_claims_timed($1)", day))
    for generation in sorted(needs.claim_generations):
        made.append(await _retried(connection, "SELECT meter.ensure_claims_hashed($1)", generation))
    return [name for name in made if name is not None]


def _one_of_each(missing: Iterable[asyncpg.Record], policy: Policy, today: date) -> Iterator[tuple[str, datetime, str]]:
    """Of (parent, moment): the first moment in each leaf that is to be made, with the leaf's size."""
    seen: set[tuple[str, str]] = set()
    for parent, moment in missing:
        size = size_of(moment.date(), today, policy if parent == "ledger" else "month")
        leaf = (parent, moment.strftime(_NAME_OF_SIZE[size]))
        if leaf not in seen:
            seen.add(leaf)
            yield parent, moment, size


async def drop_expired(connection: Connection, *, newest_append: datetime) -> list[str]:
    """Drops the leaves of claims, duplicates and rejected records that ended CLAIMS_KEEP_DAYS ago; returns their
    names. May block.

    Ago means before `newest_append`, the highest append time that has been stored, and before the database's
    own clock, whichever is less: neither a pipeline that is far behind nor one wrong clock drops too early.
    Raises asyncpg.LockNotAvailableError when readers or writers left no gap.
    """
    before = newest_append - timedelta(days=CLAIMS_KEEP_DAYS)
    dropped: list[str] = []
    while (name := await _retried(connection, "SELECT meter.drop_expired($1)", before)) is not None:
        dropped.append(name)
    return dropped


async def ledger_leaves(connection: Connection, now: datetime) -> tuple[int, int]:
    """How many leaves the ledger has, and how many of them begin after `now`."""
    row = await connection.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE lower_at > $1) FROM meter.leaves WHERE parent = 'ledger'", now
    )
    assert row is not None
    return row[0], row[1]


async def _retried(connection: Connection, query: str, *arguments: object) -> str | None:
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                name: str | None = await connection.fetchval(query, *arguments)
                return name
        except asyncpg.LockNotAvailableError:
            if attempt == ATTEMPTS_MAX:
                raise
            await asyncio.sleep(RETRY_DELAY_S)
    raise AssertionError("unreachable")


def needs_of_times(
    occurred: Iterable[datetime], appended: Iterable[datetime], claim_days: Iterable[int], generations: Iterable[int]
) -> Needs:
    """The leaves that rows of these times need; all times aware UTC, days since 1970."""
    return Needs(
        occurred=frozenset(moment.date() for moment in occurred),
        appended=frozenset(moment.date().replace(day=1) for moment in appended),
        claim_days=frozenset(_EPOCH + timedelta(days=day) for day in set(claim_days)),
        claim_generations=frozenset(generations),
    )


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _add_months(first: date, months: int) -> date:
    total = first.year * 12 + first.month - 1 + months
    return date(total // 12, total % 12 + 1, 1)
