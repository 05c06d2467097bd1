"""Durable claims: the same (tenant, source, id) counts once.

The claim key says where a claim is kept (`meterstream.schema.ids`). Looking up before writing is free of
races: one tenant has one partition, and its one owner holds that partition's row of positions. The primary
keys are the backstop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from meterstream.schema.ids import is_timed
from meterstream.sinks.postgres.batch import PlacedRow
from meterstream.sinks.postgres.partitions import generation_of
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection

DAY_MS: Final = 86_400_000
_TIMED_COLUMNS: Final = ("key", "body", "occurred_at")
_HASHED_COLUMNS: Final = ("key", "body", "occurred_at", "generation")


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


def by_day(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Timed keys, sorted, in one list for each day that has any."""
    rest = sorted(keys)
    while rest:
        end = bisect_left(rest, ((day_of(rest[0]) + 1) * DAY_MS).to_bytes(6, "big"))
        yield rest[:end]
        rest = rest[end:]


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
    timed: list[bytes] = []
    hashed: list[bytes] = []
    for _, _, row in rows:
        key = row.claim
        (timed if is_timed(key) else hashed).append(key)
    found: dict[bytes, int] = {}
    for keys in by_day(timed):
        claimed = await connection.fetch(query("find_claims_timed"), keys, keys[0], keys[-1])
        found.update((key, body) for key, body in claimed)
    if hashed:
        claimed = await connection.fetch(query("find_claims_hashed"), sorted(hashed))
        found.update((key, body) for key, body in claimed)
    return found


async def add(connection: Connection, rows: Iterable[PlacedRow]) -> None:
    """Claims the ids of these rows, none of which is claimed. Raises asyncpg.UniqueViolationError otherwise."""
    timed: list[tuple[object, ...]] = []
    hashed: list[tuple[object, ...]] = []
    for _, _, row in rows:
        if is_timed(row.claim):
            timed.append((row.claim, row.body, row.occurred_at))
        else:
            hashed.append((row.claim, row.body, row.occurred_at, generation_of(row.appended_at)))
    if timed:
        timed.sort(key=itemgetter(0))  # neighbours in the index
        await connection.copy_records_to_table(
            "claims_timed", schema_name="meter", columns=_TIMED_COLUMNS, records=timed
        )
    if hashed:
        hashed.sort(key=itemgetter(0))
        await connection.copy_records_to_table(
            "claims_hashed", schema_name="meter", columns=_HASHED_COLUMNS, records=hashed
        )
