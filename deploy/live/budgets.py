"""Budgets in Postgres, and their publication to `meter.catalog`.

Every change is a new version, numbered while no other change of a budget can be made; a removal is a version
too. Nothing is ever updated. The topic is a copy: a change writes its budget there, `catalog.publish` all of them.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg

from meterstream.deploy import catalog
from meterstream.deploy.catalog import budget_of
from meterstream.deploy.connections import Connection, administrator, reader
from meterstream.processors.aggregation.budgets import AHEAD_MS_MAX
from meterstream.schema.budget import SCOPE_FIELDS, Budget, checked
from meterstream.schema.catalog import check_name
from meterstream.schema.currencies import CURRENCIES
from meterstream.schema.errors import BudgetInvalid, Unreachable, UsageError
from meterstream.schema.providers import provider_of
from meterstream.schema.settings import Settings
from meterstream.schema.topics import AGGREGATES, PRICED, partition_of

ZONE_DEFAULT: Final = "UTC"
BEHIND: Final = timedelta(seconds=5)
"""What was stored so long ago should have been counted: the aggregator publishes about once a second."""
_LOOK_AGAIN_S: Final = 0.2

# An advisory lock on a key of our own: changes of budgets are made one after the other.
_CHANGING: Final = 0x6D65_7465_7200_0003


@dataclass(frozen=True)
class Changed:
    """What one change did. `is_new`: False where the newest version says the same already."""

    budget: Budget
    is_new: bool


@dataclass(frozen=True)
class Spent:
    """What has been counted of a budget's version. Amounts in its currency, times aware UTC, `resets_at` exclusive.

    `provisional`: events of the period that came before `counts_since` may be missing in `spent`; later ones are in.
    `is_over`: the period has ended, and no event has come since. `previous`: the period before, where it is known.
    """

    spent: Decimal
    remaining: Decimal
    percent: Decimal
    reached: tuple[int, ...]
    provisional: bool
    counts_since: datetime | None
    period_start: datetime
    resets_at: datetime
    is_over: bool
    previous: Previous | None


@dataclass(frozen=True)
class Previous:
    """The period before: late events still count in it. Amount in the budget's currency, times aware UTC."""

    spent: Decimal
    provisional: bool
    start: datetime
    end: datetime


@dataclass(frozen=True)
class BudgetRow:
    """A budget and where it stands; None: no event has come since it was made, or none that Postgres knows of.

    `behind_since`: Postgres has events of the budget's partition that nobody has counted for BEHIND, and all of them
    were priced after that (aware UTC, the broker's clock); None: there are none.
    """

    budget: Budget
    created_at: datetime
    spent: Spent | None
    behind_since: datetime | None


def check(fields: Mapping[str, Any]) -> Budget:
    """The budget that these fields make; they are those of `Budget`. Raises BudgetInvalid with every mistake.

    More is asked of a new budget than of one that is there: a currency and characters that an event can have.
    """
    problems: list[str] = []
    budget = None
    try:
        budget = checked(**fields)
    except BudgetInvalid as error:
        problems = str(error).splitlines()
    named = {problem.partition(":")[0] for problem in problems}
    currency = fields.get("currency")
    if "currency" not in named and currency not in CURRENCIES:
        close = difflib.get_close_matches(str(currency), sorted(CURRENCIES), n=3)
        fix = f"did you mean {' or '.join(close)}?" if close else "such as USD"
        problems.append(f"currency: {currency} is no currency in use, as of ISO 4217: {fix}")
    for name in ("tenant", *SCOPE_FIELDS):
        if fields.get(name) is not None and name not in named:
            problems += _hidden_characters(name, fields[name])
    if budget is None or problems:
        raise BudgetInvalid("\n".join(problems))
    return budget


def _hidden_characters(name: str, text: str) -> list[str]:
    try:
        check_name(text)
    except ValueError as error:
        return [f"{name}: {error}"]
    return []


async def add(settings: Settings, fields: Mapping[str, Any]) -> Changed:
    """Stores a new version where something changed, then publishes it; the same again only publishes.

    `fields` are those of `Budget` without the version; without `time_zone` it is the tenant's, else UTC. Blocks on
    database and broker. Raises BudgetInvalid before anything is changed; UsageError, and where that came from the
    broker the version is stored, and the same call again publishes it.
    """
    if isinstance(fields.get("provider"), str):
        fields = {**fields, "provider": provider_of(fields["provider"])}  # as its events have it
    check({"time_zone": ZONE_DEFAULT} | dict(fields))
    async with administrator(settings) as connection:
        async with _turn(connection):
            zone = {} if "time_zone" in fields else {"time_zone": await _zone_of(connection, fields["tenant"])}
            changed = await _store(connection, check({**fields, **zone}))
        await _publish(connection, settings, changed)
    return changed


async def remove(settings: Settings, tenant: str, name: str) -> Changed:
    """Stores the removal as a new version, then publishes it; a budget that is removed already is only published.

    Blocks as `add`. Raises UsageError, also where the tenant never had such a budget.
    """
    async with administrator(settings) as connection:
        async with _turn(connection):
            newest = await _newest(connection, tenant, name)
            if newest is None:
                raise UsageError(f"tenant {tenant} has no budget {name}: `meterstream budget ls` lists those there are")
            changed = await _store(connection, newest.model_copy(update={"removed": True}))
        await _publish(connection, settings, changed)
    return changed


async def list_budgets(settings: Settings, tenant: str | None = None) -> list[BudgetRow]:
    """The newest version of each that is not removed, by tenant and name. Raises UsageError.

    Blocks on the database, and where something was stored just now until it is counted, at most for BEHIND.
    """
    async with reader(settings) as connection:
        look = await _look(connection, tenant)
        due = {number: row["next_offset"] for number, row in look.uncounted.items() if number in look.partitions}
        is_old = {number for number in due if look.uncounted[number]["is_old"]}
        until = time.monotonic() + BEHIND.total_seconds()
        # Offsets decide. Between two events clocks say nothing of how long one has waited to be counted.
        while look.lacks(due) - is_old and time.monotonic() < until:
            await asyncio.sleep(_LOOK_AGAIN_S)
            look = await _look(connection, tenant)
    behind = look.lacks(due)
    return [
        BudgetRow(
            budget_of(row),
            row["created_at"],
            _spent(row),
            # Without a time nothing was ever counted.
            (look.uncounted[number]["since"] or row["created_at"]) if number in behind else None,
        )
        for row in look.budgets
        for number in [partition_of(row["tenant"])]
    ]


class _Look(NamedTuple):
    """What one snapshot says."""

    budgets: list[asyncpg.Record]
    uncounted: dict[int, asyncpg.Record]
    """Partition of `usage.priced` -> what the sink has stored of it and what was counted, where that is less."""

    @property
    def partitions(self) -> set[int]:
        """Those of the budgets' tenants."""
        return {partition_of(row["tenant"]) for row in self.budgets}

    def lacks(self, due: Mapping[int, int]) -> set[int]:
        """The partitions that are not counted up to these offsets."""
        return {
            number
            for number, offset in due.items()
            if number in self.uncounted and self.uncounted[number]["counted_offset"] < offset
        }


async def _look(connection: Connection, tenant: str | None) -> _Look:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        budgets = await connection.fetch(_STATUS, tenant)
        uncounted = await connection.fetch(_UNCOUNTED, PRICED, AGGREGATES, BEHIND)
    return _Look(budgets, {row["partition"]: row for row in uncounted})


async def has_been_seen(settings: Settings, tenant: str) -> bool:
    """Whether an event or a budget of that tenant is known. Blocks on the database. Raises UsageError."""
    async with reader(settings) as connection:
        is_seen: bool = await connection.fetchval(_IS_SEEN, tenant)
    return is_seen


# One statement, hence one snapshot: the definition and its state belong together.
_STATUS: Final = """
    SELECT b.*, false AS removed, s.spent, s.remaining, s.percent, s.reached, s.provisional, s.counts_since,
           s.period_start, s.resets_at, s.resets_at <= now() AS is_over,
           s.previous_spent, s.previous_start, s.previous_end
    FROM meter.current_budgets b JOIN meter.budget_status s USING (tenant, name, version)
    WHERE $1::text IS NULL OR b.tenant = $1
    ORDER BY b.tenant, b.name
"""

# Where the sink has stored more of usage.priced than was counted of it. Where the aggregator has published, but nobody
# has stored how far it was (before the first progress since a migration), nobody can tell.
_UNCOUNTED: Final = """
    SELECT p.partition, p.next_offset, coalesce(a.counted_offset, 0) AS counted_offset, a.counted_watermark AS since,
        p.updated_at < now() - $3::interval AS is_old
    FROM meter.sink_positions p
    LEFT JOIN meter.sink_positions a ON a.topic = $2 AND a.partition = p.partition
    WHERE p.topic = $1 AND p.next_offset > coalesce(a.counted_offset, 0)
        AND (a.counted_offset IS NOT NULL OR coalesce(a.next_offset, 0) = 0)
"""

_IS_SEEN: Final = """
    SELECT EXISTS (SELECT FROM meter.budgets WHERE tenant = $1)
        OR EXISTS (SELECT FROM meter.rollup_daily WHERE tenant = $1)
"""


def _spent(row: asyncpg.Record) -> Spent | None:
    # Before the first event the newest period that the aggregator knows may be one that ended long ago.
    if row["spent"] is None or row["resets_at"] <= row["created_at"]:
        return None
    return Spent(
        spent=row["spent"],
        remaining=row["remaining"],
        percent=row["percent"],
        reached=tuple(row["reached"]),
        provisional=row["provisional"],
        counts_since=row["counts_since"],
        period_start=row["period_start"],
        resets_at=row["resets_at"],
        is_over=row["is_over"],
        previous=None if row["previous_spent"] is None else _previous(row),
    )


def _previous(row: asyncpg.Record) -> Previous:
    start, since = row["previous_start"], row["counts_since"]
    is_provisional = since is not None and start <= since + timedelta(milliseconds=AHEAD_MS_MAX)
    return Previous(row["previous_spent"], is_provisional, start, row["previous_end"])


@asynccontextmanager
async def _turn(connection: Connection) -> AsyncIterator[None]:
    """One transaction, and nobody else changes a budget in it."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _CHANGING)
        yield


async def _zone_of(connection: Connection, tenant: str) -> str:
    zone: str | None = await connection.fetchval("SELECT time_zone FROM meter.tenants WHERE tenant = $1", tenant)
    return zone or ZONE_DEFAULT


async def _newest(connection: Connection, tenant: str, name: str) -> Budget | None:
    row = await connection.fetchrow(
        "SELECT * FROM meter.budgets WHERE tenant = $1 AND name = $2 ORDER BY version DESC LIMIT 1", tenant, name
    )
    return None if row is None else budget_of(row)


async def _store(connection: Connection, wanted: Budget) -> Changed:
    newest = await _newest(connection, wanted.tenant, wanted.name)
    if newest is not None:
        if newest == wanted.model_copy(update={"version": newest.version}):
            return Changed(newest, is_new=False)
        wanted = wanted.model_copy(update={"version": newest.version + 1})
    values = [getattr(wanted, column) for column in _COLUMNS]
    await connection.execute(_INSERT, *values)
    return Changed(wanted, is_new=True)


_COLUMNS: Final = tuple(Budget.model_fields)
_INSERT: Final = (
    f"INSERT INTO meter.budgets ({', '.join(_COLUMNS)}) "  # noqa: S608 - constants only
    f"VALUES ({', '.join(f'${place}' for place in range(1, len(_COLUMNS) + 1))})"
)


async def _publish(connection: Connection, settings: Settings, changed: Changed) -> None:
    try:
        await catalog.publish_budget(connection, settings, changed.budget.tenant, changed.budget.name)
    except UsageError as error:
        if not changed.is_new:
            raise
        budget = changed.budget
        kind = Unreachable if isinstance(error, Unreachable) else UsageError
        raise kind(
            f"version {budget.version} of budget {budget.name} is stored, but not published: {error}; "
            "once that is mended, the same command again publishes it"
        ) from error
