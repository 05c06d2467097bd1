"""What is kept of a stored state when the log that follows it is lost, and a person has accepted that. Pure.

Every bucket goes on from one offset, the same for all, with what it has counted and the levels that were reached. What
may lack events says so from then on: windows that took events when the lowest bucket was stored, or began later and
before the loss ended, and the live periods of budgets.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from meterstream.processors.aggregation import checkpoint
from meterstream.processors.aggregation.checkpoint import BucketRecord, CounterRecord
from meterstream.processors.aggregation.duplicates import Horizon
from meterstream.processors.aggregation.fold import BUCKETS
from meterstream.processors.aggregation.windows import DAY_MS, Floors

Stored = Sequence[BucketRecord | None]
"""By bucket, as `checkpoint.choose` gives them."""


def resumes_at(stored: Stored, begin: int) -> int:
    """The offset from which every bucket goes on: the log's `begin`, or that of the newest bucket, if it is later."""
    return max([begin, *(record.folded for record in _whole(stored))])


def after_loss(stored: Stored, begin: int, complete_from_ms: int) -> list[BucketRecord]:
    """The buckets at `resumes_at`; empty ones where a bucket was never stored. Of its own result it changes nothing.

    `complete_from_ms`: what is lost holds no event of that time or later.
    """
    records = _whole(stored)
    if not records:
        return [_empty(begin, complete_from_ms)] * BUCKETS
    newest = max(records, key=lambda record: record.folded)
    complete_from_ms = max([complete_from_ms, *(record.complete_from_ms for record in records)])
    offset, lost_from_ms = resumes_at(stored, begin), _lost_from_ms(records)
    return [
        replace(
            record,
            version=checkpoint.STATE_VERSION,
            folded=offset,
            prefixes=newest.prefixes,  # up to there every position is in its bucket, or lost to it
            watermark_ms=newest.watermark_ms,
            horizon=newest.horizon,
            complete_from_ms=complete_from_ms,
            has_rows=True,
            tenants=[
                replace(
                    tenant,
                    counters=_marked(tenant.counters, complete_from_ms),
                    followed=_marked(tenant.followed, complete_from_ms),
                    held_from_ms=max(tenant.held_from_ms or 0, complete_from_ms),
                )
                for tenant in record.tenants
            ],
            held_from_ms=max(record.held_from_ms or 0, complete_from_ms),
            lost_from_ms=lost_from_ms,
        )
        for record in records
    ]


def _marked(counters: Sequence[CounterRecord], complete_from_ms: int) -> list[CounterRecord]:
    return [replace(each, complete_from_ms=max(each.complete_from_ms, complete_from_ms)) for each in counters]


def steps(number: int, stored: Stored, after: Sequence[BucketRecord]) -> list[list[tuple[bytes, bytes]]]:
    """`after` as (key, value) of the state topic, in two steps: the first is acknowledged before the second is sent.

    The lowest buckets come last. By them a person has named the state, so whoever is killed before they are stored
    finds it under the same name.
    """
    same = len(stored) == len(after)
    folded = [record.folded if same and record is not None else 0 for record in (stored if same else after)]
    records = [
        (checkpoint.key_of(number, len(after), bucket), checkpoint.encode_record(record))
        for bucket, record in enumerate(after)
    ]
    low = min(folded)
    return [
        [record for record, offset in zip(records, folded, strict=True) if (offset == low) is is_low]
        for is_low in (False, True)
    ]


def _whole(stored: Stored) -> list[BucketRecord]:
    """Nothing where a bucket is missing: of its tenants nobody knows anything."""
    records = [record for record in stored if record is not None]
    return records if len(records) == len(stored) else []


def _empty(begin: int, complete_from_ms: int) -> BucketRecord:
    return BucketRecord(
        version=checkpoint.STATE_VERSION,
        folded=begin,
        prefixes=[],
        watermark_ms=0,
        horizon=Horizon(begin, 0),
        complete_from_ms=complete_from_ms,
        has_rows=True,
        tenants=[],
        held_from_ms=complete_from_ms,
    )


def _lost_from_ms(records: Sequence[BucketRecord]) -> int:
    """The watermark from which on windows may lack something, of an earlier loss too where its windows may be kept."""
    low = min(record.watermark_ms for record in records)
    kept_ms = Floors.at(low).day_kept * DAY_MS
    return min([low, *(record.lost_from_ms for record in records if record.complete_from_ms > kept_ms)])
