"""What one transaction stores: the records of some partitions, judged against what is covered. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from meterstream.schema import coverage, topics
from meterstream.schema.coverage import Prefixes, milliseconds
from meterstream.schema.pack import KIND_HEADER, Coverage, Pack, Row, decode_coverage, decode_pack
from meterstream.schema.position import SourcePartition
from meterstream.schema.rejection import Rejected, decode_rejected
from meterstream.sinks.postgres.fence import Move, Owned, TopicPartition

Item = Pack | Coverage | Rejected
PlacedRow = tuple[int, int, Row]
"""(source_id, source partition, row)."""


@dataclass(slots=True)
class Taken:
    """Decoded records of one partition, in order; `next_offset` follows the last one."""

    next_offset: int
    items: list[Item] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """The moves of the positions, and what is not yet covered."""

    moves: list[Move] = field(default_factory=list)
    rows: list[PlacedRow] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def decode(topic: str, headers: Iterable[tuple[str, bytes]], value: bytes) -> Item:
    """One record of `usage.priced` or `usage.rejected`. Raises RecordUnreadable."""
    for name, _ in headers:
        if name == KIND_HEADER:
            return decode_coverage(value)
    return decode_pack(value) if topic == topics.PRICED else decode_rejected(value)


def weight(item: Item) -> int:
    """How many rows of a batch it counts for; a coverage record costs next to nothing, but not nothing."""
    return len(item.rows) if isinstance(item, Pack) else 1


def judge(
    taken: Mapping[TopicPartition, Taken], owned: Mapping[TopicPartition, Owned], known_sources: Collection[int]
) -> Batch:
    """Drops repeats and says how far each partition moves. Changes neither argument.

    Raises CoverageGap, TopicMadeAnew, UnknownSource.
    """
    batch = Batch()
    for partition in sorted(taken):  # every process locks the rows of positions in one order
        records, owner = taken[partition], owned[partition]
        covered = dict(owner.covered)
        for item in records.items:
            _judge_item(item, covered, known_sources, batch)
        batch.moves.append(Move(partition, owner.epoch, owner.next_offset, records.next_offset, covered))
    return batch


def _judge_item(item: Item, covered: Prefixes, known_sources: Collection[int], batch: Batch) -> None:
    match item:
        case Pack():
            source = item.source_partition
            before = coverage.advance(covered, source, item.lo, item.hi, item.watermark_ms, known_sources)
            rows: Iterable[Row] = item.rows
            if item.lo <= before.position:
                rows = [
                    r for r in rows if not coverage.is_repeat(before, source, r.position, milliseconds(r.appended_at))
                ]
            batch.rows += [(*source, row) for row in rows]
        case Coverage():
            for part in item.covered:
                source = SourcePartition(part.source_id, part.partition)
                before = coverage.advance(covered, source, part.lo, part.hi, part.watermark_ms, known_sources)
                coverage.is_repeat(before, source, part.hi, part.watermark_ms)  # raises where it is not what it seems
        case Rejected():
            source = SourcePartition(item.source_id, item.partition)
            coverage.check_source(source, known_sources)
            if not coverage.is_repeat(
                covered.get(source, coverage.NOTHING), source, item.position, milliseconds(item.appended_at)
            ):
                batch.rejected.append(item)
