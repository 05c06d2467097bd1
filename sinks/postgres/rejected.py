"""Rejected records into their table; conflicts of ids become such records here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from meterstream.schema.rejection import Rejected, reject
from meterstream.sinks.postgres.batch import PlacedRow
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection


def of_conflict(placed: PlacedRow, source_topics: Mapping[int, str]) -> Rejected:
    """The record of an event whose id is claimed with another body; its payload is the priced row as JSON."""
    source_id, partition, row = placed
    fields = msgspec.structs.asdict(row) | {"claim": row.claim.hex()}
    return reject(
        reason="id_conflict",
        detail="the same tenant, source and id came before with another body",
        topic=source_topics[source_id],
        source_id=source_id,
        partition=partition,
        position=row.position,
        appended_at=row.appended_at,
        value=msgspec.json.encode(fields),
        tenant=row.tenant,
        event_id=row.event_id,
    )


async def add(connection: Connection, records: Sequence[Rejected]) -> None:
    """Stores the records; one that is there already stays. May block.

    Raises asyncpg.CheckViolationError where a leaf is missing.
    """
    if records:
        columns = zip(*(_values(record) for record in records), strict=True)
        await connection.execute(query("add_rejected"), *(list(column) for column in columns))


def _values(record: Rejected) -> tuple[object, ...]:
    return (
        record.source_id,
        record.partition,
        record.position,
        record.appended_at,
        record.reason,
        record.detail,
        record.topic,
        record.tenant,
        record.event_id,
        base64.b64decode(record.value),
        record.value_length,
        record.value_sha256,
        None if record.key is None else base64.b64decode(record.key),
        msgspec.json.encode(record.headers).decode() if record.headers else None,
    )
