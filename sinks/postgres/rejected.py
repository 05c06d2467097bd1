"""Rejected records into their table; conflicts of ids become such records here.

Of a conflict only figures are kept, whoever's it is: which tenants are in privacy mode the rater knows, the sink does
not, and they may have changed since. Its position says where the event is in its topic as long as that keeps it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from meterstream.schema.rejection import Rejected, reject
from meterstream.sinks.postgres.batch import PlacedRow
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection


_FIGURES: Final = (
    *("occurred_at", "status", "status_code", "latency_ms", "pricing", "price_revision", "currency", "amount_pico"),
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"),
    *("reported_amount", "reported_currency"),
)
"""Fields of a row in which its publisher can have put no word: numbers, times, currencies, words of ours."""


def of_conflict(placed: PlacedRow, source_topics: Mapping[int, str]) -> Rejected:
    """The record of an event whose id is claimed with another body.

    Its payload is JSON: how much was used, and what it would have cost.
    """
    source_id, partition, row = placed
    figures = {name: getattr(row, name) for name in _FIGURES}
    if row.quantities is not None:
        figures["quantities"] = msgspec.Raw(row.quantities.encode())
    return reject(
        reason="id_conflict",
        detail="the same tenant, source and id came before with another body",
        topic=source_topics[source_id],
        source_id=source_id,
        partition=partition,
        position=row.position,
        appended_at=row.appended_at,
        value=msgspec.json.encode(figures),
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
