"""Rows into the ledger, and into the list of duplicates, by COPY."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import asyncpg
from msgspec.structs import astuple

from meterstream.schema.money import to_pico
from meterstream.schema.pack import Row
from meterstream.sinks.postgres.batch import PlacedRow
from meterstream.sinks.postgres.refusal import copied_line
from meterstream.sinks.postgres.verify import place_of

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection

_TENANT: Final = 3
_NOT_STORED: Final = ("claim", "body")
_RENAMED: Final = {"amount_pico": "amount"}
_REPORTED: Final = Row.__struct_fields__.index("reported_amount")

COLUMNS: Final = (
    "source_id",
    "source_partition",
    *(_RENAMED.get(name, name) for name in Row.__struct_fields__ if name not in _NOT_STORED),
)
"""The order of a record: where the row comes from, then the fields of a pack's row."""

_DUPLICATE_COLUMNS: Final = (
    "source_id", "source_partition", "position", "tenant", "event_id", "source", "appended_at"
)  # fmt: skip

assert Row.__struct_fields__[: _TENANT + 1] == ("position", *_NOT_STORED, "tenant")


def records_of(rows: Iterable[PlacedRow]) -> list[tuple[object, ...]]:
    """The values of COLUMNS for each row."""
    # One concatenation of slices a row: unpacking costs a third more.
    return [
        (source_id, partition, row.position)
        + (astuple(row)[_TENANT:] if row.reported_amount is None else _with_reported(row, row.reported_amount))
        for source_id, partition, row in rows
    ]


def _with_reported(row: Row, amount: str) -> tuple[object, ...]:
    values = astuple(row)
    return values[_TENANT:_REPORTED] + (to_pico(Decimal(amount)),) + values[_REPORTED + 1 :]  # noqa: RUF005


async def add(connection: Connection, rows: Sequence[PlacedRow]) -> None:
    """Appends the rows. May block; raises asyncpg.CheckViolationError where a leaf is missing.

    An error notes the position of the row that the server refused, where it says which one.
    """
    try:
        await connection.copy_records_to_table("ledger", schema_name="meter", columns=COLUMNS, records=records_of(rows))
    except asyncpg.PostgresError as error:
        line = copied_line(error)
        if line is not None:
            source_id, partition, row = rows[line]
            error.add_note(f"of {place_of(source_id, partition, row.position)}")
        raise


async def add_duplicates(connection: Connection, rows: Sequence[PlacedRow]) -> None:
    """Counts events that came again. May block; raises asyncpg.CheckViolationError where a leaf is missing."""
    if rows:
        await connection.copy_records_to_table(
            "duplicates",
            schema_name="meter",
            columns=_DUPLICATE_COLUMNS,
            records=[
                (source_id, partition, row.position, row.tenant, row.event_id, row.source, row.appended_at)
                for source_id, partition, row in rows
            ],
        )
