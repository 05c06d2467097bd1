"""Where budgets stand: one row a budget, the newest state that any aggregator has sent."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from meterstream.schema.aggregate import BudgetState
from meterstream.schema.money import parse_amount
from meterstream.sinks.postgres.batch import BudgetName
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection


async def replace(connection: Connection, gone: Collection[BudgetName], states: Iterable[BudgetState]) -> None:
    """Drops the states of the budgets that are gone, then stores these where they are not older than what is there.

    May block; raises asyncpg.PostgresError. A paused aggregator may send an old state at any time: what it says of
    its offset decides, never the order of coming.
    """
    if gone:
        tenants, names = zip(*sorted(gone), strict=True)
        await connection.execute(query("drop_budget_states"), list(tenants), list(names))
    rows = [_row(state) for state in sorted(states, key=lambda state: (state.tenant, state.name))]
    if rows:
        columns = zip(*rows, strict=True)
        await connection.execute(query("add_budget_states"), *(list(column) for column in columns))


def _row(state: BudgetState) -> tuple[object, ...]:
    previous = state.previous
    return (
        state.tenant,
        state.name,
        state.version,
        state.currency,
        parse_amount(state.amount),
        state.period,
        state.time_zone,
        state.period_start,
        state.period_end,
        parse_amount(state.spent),
        parse_amount(state.remaining),
        parse_amount(state.percent),
        _array(state.thresholds),
        _array(state.reached),
        state.provisional,
        state.counts_since,
        state.project_id,
        state.user_id,
        state.api_key_id,
        state.provider,
        state.model,
        None if previous is None else previous.start,
        None if previous is None else previous.end,
        None if previous is None else parse_amount(previous.spent),
        state.partition,
        state.offset,
    )


def _array(percents: Iterable[int]) -> str:
    """As text: an array of arrays would be taken for one array of all their elements."""
    return "{" + ",".join(map(str, percents)) + "}"
