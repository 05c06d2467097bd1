"""Durable claims: the same (tenant, source, id) counts once.

The claim key says where a claim is kept (`meterstream.schema.ids`). Looking up before writing is free of
races: one tenant has one partition, and its one owner holds that partition's row of positions. The primary
keys are the backstop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Final

from meterstream.schema.ids import CLAIM_BYTES, HASHED_FROM
from meterstream.sinks.postgres.batch import PlacedRow
from meterstream.sinks.postgres.copying import copy, microseconds
from meterstream.sinks.postgres.partitions import generation_of
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection

DAY_MS: Final = 86_400_000
_TIMED_COLUMNS: Final = ("key", "body", "occurred_at")
_HASHED_COLUMNS: Final = ("key", "body", "occurred_at", "generation")

_timed = Struct(">hi16siqiq").pack
_hashed = Struct(">hi16siqiqih").pack


@dataclass(slots=True)
class Verdict:
    """The rows of a batch, each in one of three lists."""

    fresh: list[PlacedRow] = field(default_factory=list)
    duplicates: list[PlacedRow] = field(default_factory=list)
    conflicts: list[PlacedRow] = field(default_factory=list)
    """Claimed before with another body; the first stays."""


def day_of(key: bytes) -> int:
    """Days since 1970 of the time in a timed claim key."""
    return int.from_bytes(key[:6], "big") // DAY_MS


def by_day(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Timed keys in order -> the same, in one list for each day that has any."""
    first = 0
    while first < len(keys):
        end = bisect_left(keys, ((day_of(keys[first]) + 1) * DAY_MS).to_bytes(6, "big"), first)
        yield keys[first:end]
        first = end


def judge(rows: Sequence[PlacedRow], stored: dict[bytes, int]) -> Verdict:
    """Pure. `stored`: claim key -> body, as the database has them; the rows' own claims are added to it.

    Within the batch the first one stays, too: rows of a source partition come in order of position.
    """
    verdict = Verdict()
    for placed in rows:
        row = placed[2]
        body = stored.get(row.claim)
        if body is None:
            stored[row.claim] = row.body
            verdict.fresh.append(placed)
        elif body == row.body:
            verdict.duplicates.append(placed)
        else:
            verdict.conflicts.append(placed)
    return verdict


async def find(connection: Connection, rows: Iterable[PlacedRow]) -> dict[bytes, int]:
    """claim key -> body of every row whose id is claimed. May block; raises asyncpg.PostgresError."""
    keys = sorted([row.claim for _, _, row in rows])
    hashed_from = bisect_left(keys, HASHED_FROM)
    found: dict[bytes, int] = {}
    for of_day in by_day(keys[:hashed_from]):
        claimed = await connection.fetch(query("find_claims_timed"), of_day, of_day[0], of_day[-1])
        found.update((key, body) for key, body in claimed)
    if hashed_from < len(keys):
        claimed = await connection.fetch(query("find_claims_hashed"), keys[hashed_from:])
        found.update((key, body) for key, body in claimed)
    return found


async def add(connection: Connection, rows: Iterable[PlacedRow]) -> None:
    """Claims the ids of these rows, none of which is claimed. Raises asyncpg.UniqueViolationError otherwise."""
    timed: list[bytes] = []
    hashed: list[bytes] = []
    for _, _, row in rows:
        key = row.claim
        if key < HASHED_FROM:
            timed.append(_timed(3, CLAIM_BYTES, key, 8, row.body, 8, microseconds(row.occurred_at)))
        else:
            at, generation = microseconds(row.occurred_at), generation_of(row.appended_at)
            hashed.append(_hashed(4, CLAIM_BYTES, key, 8, row.body, 8, at, 2, generation))
    # The key comes first in a row: in order, neighbours in the index come one after the other.
    if timed:
        await copy(connection, "claims_timed", _TIMED_COLUMNS, sorted(timed))
    if hashed:
        await copy(connection, "claims_hashed", _HASHED_COLUMNS, sorted(hashed))
