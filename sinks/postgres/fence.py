"""Who may write: claims of partitions, and the compare-and-set that begins every transaction.

The database issues the epoch, and it rises with every claim. A process that was paused while another
claimed its partitions fails the compare-and-set before it has written anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meterstream.schema.aggregate import Progress
from meterstream.schema.coverage import Prefixes
from meterstream.schema.errors import Fenced, StopConsuming
from meterstream.sinks.postgres import positions
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection

TopicPartition = tuple[str, int]


@dataclass(slots=True)
class Owned:
    """A partition that this process has claimed, as the database has it."""

    epoch: int
    next_offset: int
    covered: Prefixes


@dataclass(frozen=True, slots=True)
class Move:
    """What one transaction does to one partition's row."""

    partition: TopicPartition
    epoch: int
    expected_offset: int
    next_offset: int
    covered: Prefixes
    counted: Progress | None = None
    """How far live counting is, where the records say so."""


async def claim(
    connection: Connection, begins: Mapping[TopicPartition, int], cluster_id: str
) -> dict[TopicPartition, Owned]:
    """Takes the partitions over; where there is no row yet, reading begins at `begins[partition]`. May block.

    Raises StopConsuming when the rows were written from another Kafka cluster, asyncpg.PostgresError.
    """
    wanted = sorted(begins)
    async with connection.transaction():
        rows = await connection.fetch(
            query("claim_partitions"),
            [topic for topic, _ in wanted],
            [partition for _, partition in wanted],
            [begins[partition] for partition in wanted],
            cluster_id,
        )
        strangers = {row["cluster_id"] for row in rows} - {cluster_id}
        if strangers:
            raise StopConsuming(another_cluster(strangers, cluster_id))
    return {
        (row["topic"], row["partition"]): Owned(
            row["epoch"], row["next_offset"], positions.load(row["covered"], row["prefixes"])
        )
        for row in rows
    }


def another_cluster(stored: Iterable[str], cluster_id: str) -> str:
    """What to say where positions are `stored` of other clusters than the broker's."""
    return (
        f"this database holds positions of Kafka cluster {', '.join(sorted(stored))}, but the broker is "
        f"cluster {cluster_id}: offsets of one mean nothing in the other"
    )


async def move(connection: Connection, moves: Sequence[Move]) -> None:
    """Compare-and-set of all rows of a batch. May block on another owner's transaction; raises Fenced."""
    dumps = [positions.dump(move.covered) for move in moves]
    status = await connection.execute(
        query("move_positions"),
        [move.partition[0] for move in moves],
        [move.partition[1] for move in moves],
        [move.expected_offset for move in moves],
        [move.epoch for move in moves],
        [move.next_offset for move in moves],
        [covered for covered, _ in dumps],
        [prefixes for _, prefixes in dumps],
        [move.counted and move.counted.offset for move in moves],
        [move.counted and move.counted.watermark for move in moves],
    )
    if status != f"UPDATE {len(moves)}":
        names = ", ".join(f"{topic}/{partition}" for topic, partition in (move.partition for move in moves))
        raise Fenced(f"another process has claimed one or more of {names}")
