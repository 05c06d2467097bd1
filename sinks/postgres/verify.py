"""Proves that what Postgres holds agrees with itself: ledger = rollups, every position decided once.

Everything is read in one REPEATABLE READ snapshot, so a sink that writes meanwhile changes nothing: the
same queries under READ COMMITTED report differences that are none. Ask the primary: a replica may serve
snapshots that never were.

Cost: one scan and one aggregation of the ledger for each check, one sort of all positions; it spills to
disk where `work_mem` ends. Nothing is locked, but VACUUM keeps what the snapshot may still see.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg

from meterstream.schema import topics
from meterstream.schema.position import NOTHING_COVERED, SourcePartition, split_position
from meterstream.sinks.postgres import positions
from meterstream.sinks.postgres.queries import query
from meterstream.sinks.postgres.rollups import DAILY, HOURLY, Rollup, query_of

DIFFERENCES_MAX: Final = 20
"""How many differences of one check are named; all of them are counted."""
ROWS_AHEAD: Final = 5_000
"""Rows that a cursor fetches at once."""

_NUMBERS = (
    "events",
    "errors",
    "unpriced_events",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "latency_ms_sum",
    "latency_events",
    "amount",
    "adjustment_amount",
)


class Difference(NamedTuple):
    """`place` names the row or position; `detail` says what was expected there and what is."""

    place: str
    detail: str


@dataclass(frozen=True)
class Check:
    """One comparison. `differences` holds the first of `different`."""

    name: str
    compared: int
    unit: str
    """What `compared` counts: keys, positions, claims."""
    different: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Total:
    """What was metered in one currency."""

    currency: str
    events: int
    unpriced_events: int
    amount: Decimal


@dataclass(frozen=True)
class Report:
    """What was compared in one snapshot, and what disagreed."""

    taken_at: datetime
    since: datetime | None
    """The UTC midnight from which on was compared; None: everything."""
    checks: tuple[Check, ...]
    judged_twice: int
    """Positions that one rater priced and another, of another version, rejected: the ledger stands."""
    totals: tuple[Total, ...]

    @property
    def is_good(self) -> bool:
        """Nothing disagreed."""
        return not any(check.different for check in self.checks)


class Judged(NamedTuple):
    """One disposition: `place` is ledger, duplicates or rejected; `event_id` is None for rejected."""

    source_id: int
    source_partition: int
    position: int
    place: str
    event_id: str | None


@asynccontextmanager
async def snapshot(connection: asyncpg.Connection[Any]) -> AsyncIterator[asyncpg.Connection[Any]]:
    """One consistent, read-only view of the database for everything that is asked inside."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        yield connection


async def verify(
    connection: asyncpg.Connection[Any], *, since: datetime | None = None, differences_max: int = DIFFERENCES_MAX
) -> Report:
    """Runs every check; call it inside `snapshot`. Takes seconds per million ledger rows.

    `since` (aware) leaves out what happened before its UTC day. Role: meterstream_reader. Raises
    asyncpg.PostgresError.
    """
    since = midnight(since)
    dispositions, judged_twice = await _dispositions(connection, since, differences_max)
    return Report(
        taken_at=await connection.fetchval("SELECT now()"),
        since=since,
        checks=(
            await _rollup(connection, HOURLY, since, differences_max),
            await _rollup(connection, DAILY, since, differences_max),
            dispositions,
            await _claims(connection, since, differences_max),
        ),
        judged_twice=judged_twice,
        totals=tuple(Total(**dict(row)) for row in await connection.fetch(query("verify_totals"), since)),
    )


def midnight(since: datetime | None) -> datetime | None:
    """The beginning of the UTC day of an aware moment."""
    return None if since is None else since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def _rollup(connection: asyncpg.Connection[Any], rollup: Rollup, since: datetime | None, limit: int) -> Check:
    rows = await connection.fetch(query_of(rollup, "verify_rollup"), since, limit)
    key = ("tenant", "period", *rollup.labels)
    differences = [
        Difference(f"{rollup.name} ({', '.join(row[column] for column in key)})", _what_differs(row))
        for row in rows
        if row["tenant"] is not None
    ]
    return Check(f"ledger = {rollup.name}", rows[0]["compared"], "keys", rows[0]["different"], tuple(differences))


def _what_differs(row: Mapping[str, Any]) -> str:
    if row["stored"] is None:
        return "the ledger has events for this key, the rollup has no row"
    if row["expected"] is None:
        return "the rollup has a row for this key, the ledger has no event"
    triples = zip(_NUMBERS, row["expected"], row["stored"], strict=True)
    return "; ".join(f"{name}: ledger {should:f}, rollup {is_:f}" for name, should, is_ in triples if should != is_)


async def _dispositions(connection: asyncpg.Connection[Any], since: datetime | None, limit: int) -> tuple[Check, int]:
    rows = await connection.fetch(query("verify_dispositions"), since, limit)
    differences = [
        Difference(place_of(row["source_id"], row["source_partition"], row["position"]), f"is in {row['places']}")
        for row in rows
        if row["position"] is not None
    ]
    first = rows[0]
    check = Check("one disposition", first["compared"], "positions", first["different"], tuple(differences))
    return check, first["judged_twice"]


async def _claims(connection: asyncpg.Connection[Any], since: datetime | None, limit: int) -> Check:
    rows = await connection.fetch(query("verify_claims"), since, limit)
    differences = [
        Difference(f"hour {row['hour']}", f"{row['claims']} claims, but {row['events']} ledger rows")
        for row in rows
        if row["hour"] is not None
    ]
    return Check("no claim without its event", rows[0]["compared"], "claims", rows[0]["different"], tuple(differences))


async def clusters(connection: asyncpg.Connection[Any]) -> set[str]:
    """The ids of the Kafka clusters whose positions are stored: one, or none in a new database."""
    return {row["cluster_id"] for row in await connection.fetch("SELECT DISTINCT cluster_id FROM meter.sink_positions")}


async def covered(connection: asyncpg.Connection[Any]) -> dict[SourcePartition, int]:
    """Up to where each source partition is complete in Postgres: the lowest that any sink partition holds.

    Of the manifest's source partitions and of those that some sink partition knows beside them; retired sources are
    left out. Call it inside `snapshot`. One of which some sink partition knows nothing is at NOTHING_COVERED.
    """
    stored = {
        (row["topic"], row["partition"]): positions.load_covered(row["covered"])
        for row in await connection.fetch("SELECT topic, partition, covered::text FROM meter.sink_positions")
    }
    sink_partitions = [
        (topic, partition)
        for topic in (topics.PRICED, topics.REJECTED)
        for partition in range(topics.partitions_of(topic))
    ]
    current = frozenset(topics.source_ids().values())
    sources = _source_partitions() | {source for held in stored.values() for source in held}
    return {
        source: min(stored.get(sink, {}).get(source, NOTHING_COVERED) for sink in sink_partitions)
        for source in sorted(sources)
        if source.source_id in current
    }


def _source_partitions() -> set[SourcePartition]:
    return {
        SourcePartition(source_id, partition)
        for topic, source_id in topics.source_ids().items()
        for partition in range(topics.partitions_of(topic))
    }


async def sources_held(connection: asyncpg.Connection[Any]) -> set[int]:
    """The source ids of which something is covered; none where the tables are not there yet."""
    if await connection.fetchval("SELECT to_regclass('meter.sink_positions')") is None:
        return set()
    rows = await connection.fetch("SELECT covered::text FROM meter.sink_positions")
    return {source.source_id for row in rows for source in positions.load_covered(row["covered"])}


async def judged(connection: asyncpg.Connection[Any]) -> AsyncIterator[Judged]:
    """Every disposition in order of (source partition, position), through a cursor: memory is bounded.

    Call it inside `snapshot`. The server sorts all positions once.
    """
    async for row in connection.cursor(query("judged_positions"), prefetch=ROWS_AHEAD):
        yield Judged(*row)


def place_of(source_id: int, partition: int, position: int) -> str:
    """How a position is shown: usage.raw/0 offset 12 index 3."""
    topic = topics.source_names().get(source_id, f"source {source_id}")
    offset, index = split_position(position)
    return f"{topic}/{partition} offset {offset} index {index}"
