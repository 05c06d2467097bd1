"""The protocol of the sink, top to bottom: one transaction, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import asyncpg

from meterstream.schema.failpoints import hit
from meterstream.schema.ids import is_timed
from meterstream.schema.topics import source_names
from meterstream.sinks.postgres import alerts, budget_states, claims, fence, ledger, partitions, rejected, rollups
from meterstream.sinks.postgres.batch import Batch

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection

_SOURCE_TOPICS: Final = source_names()


@dataclass(frozen=True, slots=True)
class Stored:
    """What one transaction has stored, in rows."""

    ledger: int = 0
    duplicates: int = 0
    rejected: int = 0
    alerts: int = 0
    has_new_leaves: bool = False


async def store(connection: Connection, batch: Batch, policy: partitions.Policy) -> Stored:
    """Stores the batch exactly once. Where a leaf is missing it is made, and all begins anew, once.

    May block on another owner's transaction up to the role's lock_timeout. Raises Fenced when the
    partitions are not ours any more; after any other error than Fenced it is unknown whether the batch was
    stored: drop the connection, claim again, go on from what the database says.
    """
    try:
        return await _store(connection, batch)
    except asyncpg.CheckViolationError as error:
        if error.constraint_name is not None:  # a constraint of ours, not a row without a leaf
            raise
    today = datetime.now(UTC).date()
    await partitions.ensure(connection, needs_of(batch), policy=policy, today=today)
    return replace(await _store(connection, batch), has_new_leaves=True)


async def _store(connection: Connection, batch: Batch) -> Stored:
    hit("before_begin")
    async with connection.transaction():
        await fence.move(connection, batch.moves)
        hit("after_cas")
        verdict = claims.judge(batch.rows, await claims.find(connection, batch.rows))
        await claims.add(connection, verdict.fresh)
        hit("after_claims")
        if verdict.fresh:
            await ledger.add(connection, verdict.fresh)
        hit("after_ledger")
        await rollups.add(connection, verdict.fresh)
        hit("after_rollups")
        refused = batch.rejected + [rejected.of_conflict(row, _SOURCE_TOPICS) for row in verdict.conflicts]
        await rejected.add(connection, refused)
        await ledger.add_duplicates(connection, verdict.duplicates)
        fired = await alerts.add(connection, batch.alerts)
        hit("after_alerts")
        await budget_states.replace(connection, batch.budgets_gone, batch.budget_states.values())
    hit("after_commit")
    return Stored(len(verdict.fresh), len(verdict.duplicates), len(refused), fired)


def needs_of(batch: Batch) -> partitions.Needs:
    """The leaves that the batch needs, whatever becomes of its rows."""
    rows = [row for _, _, row in batch.rows]
    return partitions.needs_of_times(
        occurred=(row.occurred_at for row in rows),
        appended=[*(row.appended_at for row in rows), *(record.appended_at for record in batch.rejected)],
        claim_days=(claims.day_of(row.claim) for row in rows if is_timed(row.claim)),
        generations=(partitions.generation_of(row.appended_at) for row in rows if not is_timed(row.claim)),
    )
