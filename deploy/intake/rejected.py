"""Rejected events as Postgres has them, and what was done about each."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from meterstream.deploy.connections import administrator, reader, resolve
from meterstream.deploy.verify import source_topics
from meterstream.processors.rating.decode import decode_record
from meterstream.schema.cloudevents import ATTRIBUTE_PREFIX, STRUCTURED_HEADERS, Headers
from meterstream.schema.errors import UsageError
from meterstream.schema.position import SourcePartition, position_of, split_position
from meterstream.schema.settings import Settings
from meterstream.schema.topics import source_ids, source_names

SHOWN_MAX: Final = 1_000

_PLACE: Final = re.compile(r"([a-z.]+)/(\d{1,6})/(\d{1,12})/(\d{1,6})")
_ROWS: Final = """
    SELECT r.*, s.action, s.settled_at, s.settled_by, s.note
    FROM meter.rejected r
    LEFT JOIN LATERAL (
        SELECT * FROM meter.settlements s
        WHERE (s.source_id, s.source_partition, s.position) = (r.source_id, r.source_partition, r.position)
        ORDER BY settlement_id DESC LIMIT 1) s ON true
    WHERE ($1::text IS NULL OR r.reason = $1) AND ($2::text IS NULL OR r.tenant = $2)
      AND ($3::timestamptz IS NULL OR r.appended_at >= $3) AND ($4 OR s.action IS NULL)
      AND ($5::jsonb IS NULL OR EXISTS (
          SELECT FROM jsonb_to_recordset($5) AS w(source_id smallint, source_partition integer, position bigint)
          WHERE (w.source_id, w.source_partition, w.position) = (r.source_id, r.source_partition, r.position)))
    ORDER BY r.appended_at, r.source_id, r.source_partition, r.position
    LIMIT $6
"""
_SETTLE: Final = """
    INSERT INTO meter.settlements (source_id, source_partition, position, action, note, topic, edits, settled_by)
    VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8 || ', as ' || session_user)
"""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position: `usage.raw/0/12/3` is index 3 of the record at offset 12 of partition 0."""

    source_id: int
    partition: int
    position: int

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises UsageError."""
        found = _PLACE.fullmatch(text)
        if found is None or found[1] not in source_ids():
            raise UsageError(f"{text!r} is no place such as usage.raw/0/12/3: `meterstream rejected ls` shows them")
        return cls(source_ids()[found[1]], int(found[2]), position_of(int(found[3]), int(found[4])))

    def __str__(self) -> str:
        offset, index = split_position(self.position)
        return f"{source_names().get(self.source_id, f'source {self.source_id}')}/{self.partition}/{offset}/{index}"


@dataclass(frozen=True, slots=True)
class Settlement:
    """What was done last about a rejected event: `replayed` or `skipped`."""

    action: str
    at: datetime
    by: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A rejected event. `value` may be cut or withheld: compare with `value_length`."""

    place: Place
    appended_at: datetime
    reason: str
    detail: str
    tenant: str | None
    event_id: str | None
    value: bytes
    value_length: int
    headers: Headers
    settlement: Settlement | None

    @property
    def is_whole(self) -> bool:
        """Whether `value` is all of what was sent; of an `id_conflict` it is something else."""
        return len(self.value) == self.value_length and self.reason != "id_conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which ones; None and empty: any. Those that are settled only with `with_settled`."""

    reason: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    places: Sequence[Place] = ()
    with_settled: bool = False
    limit: int = SHOWN_MAX


async def find(settings: Settings, wanted: Wanted) -> list[Rejection]:
    """In the order of their arrival. Blocks on the database. Raises UsageError."""
    places = [
        {"source_id": place.source_id, "source_partition": place.partition, "position": place.position}
        for place in wanted.places
    ]
    async with reader(resolve(settings, ["postgres_reader_dsn"])) as connection:
        rows = await connection.fetch(
            _ROWS, wanted.reason, wanted.tenant, wanted.since, wanted.with_settled or bool(places),
            json.dumps(places) if places else None, wanted.limit,
        )  # fmt: skip
    return [_rejection(row) for row in rows]


async def original(settings: Settings, rejection: Rejection) -> tuple[bytes, Headers] | None:
    """The event as it was sent, with the headers to send it with again: from the database, else from its topic.

    None where neither holds it any more. Blocks on the broker. Raises UsageError, Unreachable.
    """
    offset, index = split_position(rejection.place.position)
    if rejection.is_whole and rejection.headers:
        return rejection.value, _headers_again(rejection.headers)
    settings = resolve(settings, ["kafka_bootstrap"])
    source = SourcePartition(rejection.place.source_id, rejection.place.partition)
    async with source_topics.reader(settings) as consumer:
        begin, end = (await source_topics.ends(consumer, [source]))[source]
        if begin <= offset < end:
            partition = source_topics.partition_of(source)
            async for record in source_topics.read(settings, consumer, partition, offset, offset + 1):
                return decode_record(record.value, record.headers)[index][1], _headers_again(record.headers)
    # One without headers was an element of an array, or had none: a CloudEvent in JSON either way.
    return (rejection.value, STRUCTURED_HEADERS) if rejection.is_whole else None


def _headers_again(headers: Headers) -> Headers:
    """Those of an event in binary mode say what it is; any other is one CloudEvent in JSON now."""
    is_binary = any(name.lower().startswith(ATTRIBUTE_PREFIX) for name, _ in headers)
    return tuple(headers) if is_binary else STRUCTURED_HEADERS


async def settle(
    settings: Settings,
    rejections: Sequence[Rejection],
    action: str,
    note: str,
    by: str,
    *,
    topics: Mapping[Place, str] | None = None,
    edits: Sequence[str] = (),
) -> None:
    """Writes down what was done about them, as one transaction of the administrator. Blocks. Raises UsageError.

    `by`: who, beside the login of the database, which many may share. `topics`: where each was sent to; `edits`: what
    was changed in all of them.
    """
    rows = [
        (
            *(each.place.source_id, each.place.partition, each.place.position),
            *(action, note, (topics or {}).get(each.place), json.dumps(list(edits)) if edits else None, by),
        )
        for each in rejections
    ]
    async with administrator(resolve(settings, ["postgres_admin_dsn"])) as connection, connection.transaction():
        await connection.executemany(_SETTLE, rows)


def _rejection(row: asyncpg.Record) -> Rejection:
    settlement = None
    if row["action"] is not None:
        settlement = Settlement(row["action"], row["settled_at"], row["settled_by"], row["note"])
    headers = json.loads(row["headers"] or "[]")
    return Rejection(
        place=Place(row["source_id"], row["source_partition"], row["position"]),
        appended_at=row["appended_at"],
        reason=row["reason"],
        detail=row["detail"],
        tenant=row["tenant"],
        event_id=row["event_id"],
        value=row["value"],
        value_length=row["value_length"],
        headers=tuple((name, base64.b64decode(value)) for name, value in headers),
        settlement=settlement,
    )
