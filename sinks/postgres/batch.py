"""What one transaction stores: the records of some partitions, judged against what is covered. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from meterstream.schema import coverage, topics
from meterstream.schema.aggregate import (
    BUDGET_KEY_PREFIX,
    PROGRESS_KEY_PREFIX,
    BudgetState,
    Progress,
    Window,
    decode_aggregate,
    key_of,
    split_budget_key,
)
from meterstream.schema.alert import Alert, decode_alert
from meterstream.schema.coverage import Prefixes, milliseconds
from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.pack import KIND_HEADER, Coverage, Pack, Row, decode_coverage, decode_pack
from meterstream.schema.position import SourcePartition
from meterstream.schema.rejection import Rejected, decode_rejected
from meterstream.sinks.postgres.fence import Move, Owned, TopicPartition

BudgetName = tuple[str, str]
"""(tenant, name)."""


class BudgetGone(NamedTuple):
    """The tombstone of a budget's state."""

    budget: BudgetName


LiveItem = Alert | BudgetState | BudgetGone | Progress
"""What the aggregator says."""
Item = Pack | Coverage | Rejected | LiveItem
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
    alerts: list[Alert] = field(default_factory=list)
    budgets_gone: set[BudgetName] = field(default_factory=set)
    """Their states go before the new ones are stored."""
    budget_states: dict[BudgetName, BudgetState] = field(default_factory=dict)


def decode(topic: str, headers: Iterable[tuple[str, bytes]], value: bytes) -> Item:
    """One record of `usage.priced` or `usage.rejected`. Raises RecordUnreadable."""
    for name, _ in headers:
        if name == KIND_HEADER:
            return decode_coverage(value)
    return decode_pack(value) if topic == topics.PRICED else decode_rejected(value)


def decode_live(topic: str, key: bytes | None, value: bytes | None) -> LiveItem | None:
    """One record of `usage.alerts` or `usage.aggregates`; None for one that is not stored. Raises RecordUnreadable.

    Of the aggregates only budgets and progress are stored: the rest, which is most of it, is not even decoded.

    A record that cannot be read stops the sink as a pack does: only our own roles write here, so this version is too
    old for the writer, and to skip would lose an alert that is sent once. It has no place among the rejected records
    either: those are records of publishers, under positions of source topics.
    """
    if topic == topics.ALERTS:
        return decode_alert(value or b"")
    if key is None or not key.startswith((BUDGET_KEY_PREFIX, PROGRESS_KEY_PREFIX)):
        return None
    is_budget = key.startswith(BUDGET_KEY_PREFIX)
    if is_budget and value is None:
        return BudgetGone(split_budget_key(key))
    record = decode_aggregate(value or b"")
    if isinstance(record, Window) or key_of(record) != key:
        what = "state of that budget" if is_budget else "progress of that partition"
        raise RecordUnreadable(f"the record under {key[:200]!r} is not the {what}")
    return record


def weight(item: Item) -> int:
    """How many rows of a batch it counts for; a coverage record costs next to nothing, but not nothing."""
    return len(item.rows) if isinstance(item, Pack) else 1


def judge(
    taken: Mapping[TopicPartition, Taken],
    owned: Mapping[TopicPartition, Owned],
    known_sources: Collection[int],
    retired: Collection[int] = (),
) -> Batch:
    """Drops repeats and says how far each partition moves. Changes no argument.

    `known_sources`: every source id that may come, the `retired` ones included (`coverage.is_repeat`).

    Raises CoverageGap, TopicMadeAnew, UnknownSource.
    """
    batch = Batch()
    for partition in sorted(taken):  # every process locks the rows of positions in one order
        records, owner = taken[partition], owned[partition]
        covered = dict(owner.covered)
        for item in records.items:
            _judge_item(item, covered, known_sources, retired, batch)
        said = (item for item in records.items if isinstance(item, Progress))
        counted = max(said, key=lambda progress: progress.offset, default=None)
        batch.moves.append(Move(partition, owner.epoch, owner.next_offset, records.next_offset, covered, counted))
    return batch


def _judge_item(
    item: Item, covered: Prefixes, known_sources: Collection[int], retired: Collection[int], batch: Batch
) -> None:
    match item:
        case Pack():
            source = item.source_partition
            before = coverage.advance(covered, source, item.lo, item.hi, item.watermark_ms, known_sources)
            rows: Iterable[Row] = item.rows
            if item.lo <= before.position:
                rows = [
                    row
                    for row in rows
                    if not coverage.is_repeat(before, source, row.position, milliseconds(row.appended_at), retired)
                ]
            batch.rows += [(*source, row) for row in rows]
        case Coverage():
            for part in item.covered:
                source = SourcePartition(part.source_id, part.partition)
                before = coverage.advance(covered, source, part.lo, part.hi, part.watermark_ms, known_sources)
                coverage.is_repeat(before, source, part.hi, part.watermark_ms, retired)  # raises where it is none
        case Rejected():
            source = SourcePartition(item.source_id, item.partition)
            coverage.check_source(source, known_sources)
            before = covered.get(source, coverage.NOTHING)
            if not coverage.is_repeat(before, source, item.position, milliseconds(item.appended_at), retired):
                batch.rejected.append(item)
        case _:
            _keep(item, batch)


def _keep(item: LiveItem, batch: Batch) -> None:
    """What the aggregator says has no source position: an id or an offset tells what is new of it."""
    match item:
        case Alert():
            batch.alerts.append(item)
        case BudgetGone():
            batch.budget_states.pop(item.budget, None)
            batch.budgets_gone.add(item.budget)
        case Progress():
            pass  # it goes with the move of its partition
        case BudgetState():
            known = batch.budget_states.get((item.tenant, item.name))
            if known is None or age_of(item) >= age_of(known):
                batch.budget_states[item.tenant, item.name] = item


def age_of(state: BudgetState) -> tuple[int, int]:
    """Of two states the one with the higher stays; a new version may hold at the same offset as the one before."""
    return state.offset, state.version
