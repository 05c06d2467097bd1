"""What Postgres holds, as plain rows for the comparison with the model."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import asyncpg

from tests.oracle.compare import Found
from tests.oracle.model import COLUMN_UNITS, Key, Line, Place, Sums

HOURLY = ("tenant", "hour", "currency", "provider", "model", "operation", "project_id")
DAILY = ("tenant", "day", "currency", "provider", "model", "operation", "project_id", "user_id", "api_key_id")


async def dump(connection: asyncpg.Connection[Any]) -> Found:
    """Everything, read in one snapshot by an administrator."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return Found(
            ledger=[
                (_place(row), _line(row))
                for row in await connection.fetch(
                    "SELECT source_id, source_partition, position, tenant, event_id, occurred_at, currency, amount "
                    "FROM meter.ledger"
                )
            ],
            duplicates=[
                _place(row)
                for row in await connection.fetch("SELECT source_id, source_partition, position FROM meter.duplicates")
            ],
            rejected=[
                (_place(row), row["reason"])
                for row in await connection.fetch(
                    "SELECT source_id, source_partition, position, reason FROM meter.rejected"
                )
            ],
            hourly=await _rollup(connection, "hourly", HOURLY),
            daily=await _rollup(connection, "daily", DAILY),
        )


async def _rollup(connection: asyncpg.Connection[Any], name: str, key: tuple[str, ...]) -> dict[Key, Sums]:
    return {
        tuple(row[column] for column in key): Sums(
            events=row["events"],
            unpriced_events=row["unpriced_events"],
            amount=Fraction(row["amount"]),
            units={unit: Fraction(row[unit]) for unit in COLUMN_UNITS},
        )
        for row in await connection.fetch(f"SELECT * FROM meter.rollup_{name}")
    }


def _place(row: Any) -> Place:
    return Place(row["source_id"], row["source_partition"], row["position"])


def _line(row: Any) -> Line:
    amount = None if row["amount"] is None else Fraction(row["amount"])
    return Line(row["tenant"], row["event_id"], row["occurred_at"], row["currency"], amount)
