"""What Postgres says of that which the aggregator keeps live: sums of windows, and what was spent of budgets.

Call everything here inside `verify.snapshot`: the positions say up to which offset of `usage.priced` the rest holds.
Role: meterstream_reader. Raises asyncpg.PostgresError.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg

from meterstream.schema import topics
from meterstream.schema.aggregate import BudgetState, WindowKind
from meterstream.schema.money import to_pico
from meterstream.sinks.postgres.queries import query

KEYS_A_QUERY: Final = 1_000

ModelKey = tuple[str, str, str]
"""(currency, provider, model)"""
WindowKey = tuple[str, datetime]
"""(tenant, start)"""


class Numbers(NamedTuple):
    """What a window counts; amounts in 1e-12 of the currency."""

    events: int = 0
    errors: int = 0
    unpriced_events: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    amount: int = 0
    adjustment_amount: int = 0


class Span(NamedTuple):
    """A window [start, end) of a tenant, without the events that were appended at `before` or later."""

    tenant: str
    start: datetime
    end: datetime
    before: datetime


WindowSums = dict[ModelKey, Numbers]


async def priced_offsets(connection: asyncpg.Connection[Any]) -> dict[int, int]:
    """partition of `usage.priced` -> the offset before which all of it is stored."""
    rows = await connection.fetch(
        "SELECT partition, next_offset FROM meter.sink_positions WHERE topic = $1", topics.PRICED
    )
    return {row["partition"]: row["next_offset"] for row in rows}


async def window_sums(
    connection: asyncpg.Connection[Any], kind: WindowKind, keys: Sequence[WindowKey]
) -> list[WindowSums]:
    """Of each key, in their order, what the rollups hold; empty where they hold nothing."""
    sums: list[WindowSums] = [{} for _ in keys]
    for first in range(0, len(keys), KEYS_A_QUERY):
        some = keys[first : first + KEYS_A_QUERY]
        starts = [start if kind == "hour" else start.date() for _, start in some]
        rows = await connection.fetch(query(f"live_{kind}s"), [tenant for tenant, _ in some], starts)
        _gather(sums, first, rows)
    return sums


async def span_sums(connection: asyncpg.Connection[Any], spans: Sequence[Span]) -> list[WindowSums]:
    """Of each span, in their order, what the ledger holds."""
    sums: list[WindowSums] = [{} for _ in spans]
    for first in range(0, len(spans), KEYS_A_QUERY):
        columns = zip(*spans[first : first + KEYS_A_QUERY], strict=True)
        _gather(sums, first, await connection.fetch(query("live_spans"), *(list(column) for column in columns)))
    return sums


def _gather(sums: list[WindowSums], first: int, rows: Sequence[asyncpg.Record]) -> None:
    for row in rows:
        *counts, amount, adjustment = (row[name] for name in Numbers._fields)
        numbers = Numbers._make([*map(int, counts), to_pico(amount), to_pico(adjustment)])
        sums[first + row["place"] - 1][row["currency"], row["provider"], row["model"]] = numbers


async def window_keys(connection: asyncpg.Connection[Any], kind: WindowKind, since: datetime) -> list[WindowKey]:
    """Every window of the rollups that starts at `since` or later."""
    if kind == "hour":
        return [
            tuple(row)
            for row in await connection.fetch(
                "SELECT DISTINCT tenant, hour FROM meter.rollup_hourly WHERE hour >= $1", since
            )
        ]
    return [
        tuple(row)
        for row in await connection.fetch(
            "SELECT DISTINCT tenant, day::timestamp AT TIME ZONE 'UTC' FROM meter.rollup_daily WHERE day >= $1",
            since.date(),
        )
    ]


async def budget_versions(connection: asyncpg.Connection[Any]) -> dict[tuple[str, str], int]:
    """(tenant, name) -> version of every budget that is not removed."""
    rows = await connection.fetch("SELECT tenant, name, version FROM meter.current_budgets")
    return {(row["tenant"], row["name"]): row["version"] for row in rows}


async def spent(
    connection: asyncpg.Connection[Any], budget: BudgetState, start: datetime, end: datetime, since: datetime | None
) -> tuple[int, int]:
    """The least and the most that may have been counted in the scope of a budget in [start, end), in 1e-12.

    Without `since` both are what the ledger and its adjustments say. With it, only what was appended later must have
    been counted. Reads every row of the tenant in that time.
    """
    scope = (budget.project_id, budget.user_id, budget.api_key_id, budget.provider, budget.model)
    row = await connection.fetchrow(query("live_spent"), budget.tenant, start, end, budget.currency, *scope, since)
    assert row is not None
    return to_pico(row["least"]), to_pico(row["most"])


async def resent(connection: asyncpg.Connection[Any], tenant: str, start: datetime, end: datetime) -> int:
    """How many events of [start, end) came again and are counted once here, as duplicates or conflicts of ids."""
    count: int = await connection.fetchval(query("live_resent"), tenant, start, end)
    return count
