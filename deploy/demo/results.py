"""What became of one demo: counted in Postgres, for this run's events alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from meterstream.deploy.connections import Connection
from meterstream.deploy.demo.budgets import Alerted
from meterstream.deploy.verify.run import Result
from meterstream.schema.money import format_amount, to_pico
from meterstream.schema.position import position_of
from meterstream.schema.topics import RAW, source_ids

SOURCE_PREFIX: Final = "demo/"
"""Every event of a demo has a `source` that begins so; the rest names the run."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The records of one run: where they are in `usage.raw`, and what bounds the tables' partitions."""

    source: str
    offsets: Mapping[int, tuple[int, int]]
    """partition -> (first, last) offset; nobody else published in between."""
    occurred_since: datetime
    appended_since: datetime


class Counts(NamedTuple):
    """Positions of the run by where they ended."""

    ledger: int
    duplicates: int
    rejected: int

    @property
    def stored(self) -> int:
        """All that are accounted for."""
        return self.ledger + self.duplicates + self.rejected


class Spend(NamedTuple):
    """A sum of the ledger. `amount` is exact; None where nothing had a price."""

    name: str
    currency: str
    events: int
    unpriced: int
    amount: Decimal | None

    @property
    def text(self) -> str | None:
        """The amount as plain decimal text."""
        return None if self.amount is None else format_amount(to_pico(self.amount))


class Hour(NamedTuple):
    """One UTC hour of the run; the amount is that of one currency."""

    hour: datetime
    events: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Results:
    """What the tables say of one run."""

    counts: Counts
    rejected: Mapping[str, int]
    """reason -> records, most first."""
    totals: tuple[Spend, ...]
    """One for each currency; `XXX` holds what has no price yet."""
    by_model: tuple[Spend, ...]
    by_tenant: tuple[Spend, ...]
    hours: tuple[Hour, ...]
    """Every hour from the first to the last, quiet ones included."""
    hours_currency: str | None
    """Whose amounts `hours` has: currencies are never added up. None: nothing has a price."""

    @property
    def unpriced(self) -> int:
        """Events that wait for a price."""
        return sum(total.unpriced for total in self.totals)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a demo that came to its end."""

    source: str
    sent: int
    results: Results
    alerted: Alerted
    verified: Result
    psql: str
    """A line for the shell; works while the servers run."""
    ready_s: float
    """Until the servers and roles were up."""
    stored_s: float
    """From the first record sent to the last one in Postgres."""
    is_kept: bool
    """The servers go on running."""

    @property
    def is_good(self) -> bool:
        """Every record is accounted for, every alert was predicted, and all that Postgres holds agrees."""
        return self.results.counts.stored == self.sent and not self.alerted.differences and self.verified.is_good


async def count(connection: Connection, sent: Sent) -> Counts:
    """Where the positions of the run are now. Blocks on one scan of the newest leaves. Raises asyncpg errors."""
    row = await connection.fetchrow(_COUNT, *_places(sent), sent.occurred_since, sent.appended_since)
    assert row is not None
    return Counts(*row)


async def read(connection: Connection, sent: Sent) -> Results:
    """Everything that is shown, from one snapshot. Blocks for some scans. Raises asyncpg errors."""
    ledger = (sent.source, sent.occurred_since)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        counts = await count(connection, sent)
        rejected = await connection.fetch(_REJECTED, *_places(sent), sent.appended_since)
        totals = await connection.fetch(_SPEND.format(name="currency"), *ledger)
        by_model = await connection.fetch(_SPEND.format(name="provider || ' ' || model"), *ledger)
        by_tenant = await connection.fetch(_SPEND.format(name="tenant"), *ledger)
        currency = next((row["currency"] for row in totals if row["amount"] is not None), None)
        hours = await connection.fetch(_HOURS, *ledger, currency)
    return Results(
        counts=counts,
        rejected={row["reason"]: row["records"] for row in rejected},
        totals=tuple(Spend(*row) for row in totals),
        by_model=tuple(Spend(*row) for row in by_model),
        by_tenant=tuple(Spend(*row) for row in by_tenant),
        hours=_without_gaps([Hour(*row) for row in hours]),
        hours_currency=currency,
    )


async def holds_other_events(connection: Connection) -> bool:
    """True when the database has events that no demo published. Blocks briefly."""
    if await connection.fetchval("SELECT to_regclass('meter.ledger') IS NULL"):
        return False
    return bool(await connection.fetchval(_FOREIGN, f"{SOURCE_PREFIX}%"))


def _places(sent: Sent) -> tuple[int, list[int], list[int], list[int]]:
    """-> (source id, partitions, first positions, positions past the last)."""
    items = sorted(sent.offsets.items())
    return (
        source_ids()[RAW],
        [partition for partition, _ in items],
        [position_of(first) for _, (first, _) in items],
        [position_of(last + 1) for _, (_, last) in items],
    )


def _without_gaps(hours: list[Hour]) -> tuple[Hour, ...]:
    if not hours:
        return ()
    known = {hour.hour: hour for hour in hours}
    step = timedelta(hours=1)
    count = (hours[-1].hour - hours[0].hour) // step + 1
    moments = (hours[0].hour + step * number for number in range(count))
    return tuple(known.get(moment, Hour(moment, 0, Decimal(0))) for moment in moments)


_SENT: Final = "unnest($2::int[], $3::bigint[], $4::bigint[]) AS sent (partition, first, past)"
_IS_SENT: Final = "t.source_id = $1 AND t.source_partition = partition AND t.position >= first AND t.position < past"

_COUNT: Final = f"""
    SELECT (SELECT count(*) FROM meter.ledger t, {_SENT} WHERE {_IS_SENT} AND t.occurred_at >= $5) AS ledger,
           (SELECT count(*) FROM meter.duplicates t, {_SENT} WHERE {_IS_SENT} AND t.appended_at >= $6) AS duplicates,
           (SELECT count(*) FROM meter.rejected t, {_SENT} WHERE {_IS_SENT} AND t.appended_at >= $6) AS rejected
"""  # noqa: S608  (constants only)

_REJECTED: Final = f"""
    SELECT t.reason, count(*) AS records
    FROM meter.rejected t, {_SENT}
    WHERE {_IS_SENT} AND t.appended_at >= $5
    GROUP BY t.reason
    ORDER BY records DESC, t.reason
"""  # noqa: S608  (constants only)

_SPEND: Final = """
    SELECT {name} AS name, currency, count(*) AS events, count(*) FILTER (WHERE amount IS NULL) AS unpriced,
           sum(amount) AS amount
    FROM meter.ledger
    WHERE source = $1 AND occurred_at >= $2
    GROUP BY 1, currency
    ORDER BY amount DESC NULLS LAST, events DESC, 1
"""

_HOURS: Final = """
    SELECT date_trunc('hour', occurred_at, 'UTC') AS hour, count(*) AS events,
           coalesce(sum(amount) FILTER (WHERE currency = $3), 0) AS amount
    FROM meter.ledger
    WHERE source = $1 AND occurred_at >= $2
    GROUP BY 1
    ORDER BY 1
"""

_FOREIGN: Final = """
    SELECT EXISTS (SELECT FROM meter.ledger WHERE source NOT LIKE $1)
        OR EXISTS (SELECT FROM meter.duplicates WHERE source NOT LIKE $1)
"""
