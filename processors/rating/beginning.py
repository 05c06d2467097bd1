"""Where a rater begins to read a source partition; what it says, and refuses, where records are gone unread.

Nothing is reset by itself: a rater that went on where a topic happens to begin would lose usage without a word.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from aiokafka import TopicPartition

from meterstream.schema.errors import OffsetOutOfRange

log = logging.getLogger(__name__)

_OUT_OF_RANGE: Final = (
    "{}: the topic does not hold the next offset: records were deleted unread, or the topic was made anew. "
    "Nothing is reset by itself; see docs/operate.md"
)
_UNREAD: Final = (
    "{}: the topic begins at offset {}, and {}: what lies before may have been deleted unread (partitions in which "
    "that is so: {}). Nothing is skipped by itself: docs/operate.md says how to find out. To go on: `meterstream run "
    "rater --accept-loss {}` (it accepts these losses, and no later one)"
)
_ENDS_EARLIER: Final = (
    "{}: the topic ends before what this group has read: it was deleted and made anew, or its broker lost records. "
    "Nothing is reset by itself; see docs/operate.md"
)


def accepted_losses(text: str) -> dict[str, int]:
    """'usage.raw/3:1200', as `Settings.rater_accept_loss` lets it pass -> what lies before 1200 there is given up."""
    offsets = {}
    for part in text.split(",") if text else ():
        name, _, offset = part.rpartition(":")
        offsets[name] = int(offset)
    return offsets


def check_unread(
    begins: Mapping[TopicPartition, int], committed: Mapping[TopicPartition, int | None], accepted: Mapping[str, int]
) -> None:
    """Raises OffsetOutOfRange where a topic no longer holds what comes next, and nobody has accepted that.

    `begins`: where the topics begin; `committed`: the group's offsets. All such partitions are named at once, those
    accepted too.
    """
    unread = {
        partition: begins[partition] for partition in sorted(begins) if begins[partition] > (committed[partition] or 0)
    }
    first = next((partition for partition, begin in unread.items() if begin > accepted.get(_name(partition), 0)), None)
    if first is None:
        return
    named = ",".join(f"{_name(partition)}:{begin}" for partition, begin in unread.items())
    raise OffsetOutOfRange(
        _UNREAD.format(_name(first), unread[first], _read_up_to(committed[first]), len(unread), named)
    )


def next_offset(partition: TopicPartition, committed: int | None, begin: int, end: int) -> int:
    """What to read first of a partition that holds [begin, end). A loss (see `check_unread`) is logged.

    Raises OffsetOutOfRange where the topic ends before what the group has read.
    """
    known = committed or 0
    if known > end:
        raise ends_earlier([partition])
    if begin > known:
        log.error(
            "LOSS ACCEPTED: %s begins at offset %d, and %s: going on at %d as if all before had been decided",
            *(_name(partition), begin, _read_up_to(committed), begin),
        )
    return max(begin, known)


def out_of_range(partitions: Iterable[TopicPartition]) -> OffsetOutOfRange:
    """The broker does not hold what comes next there."""
    return OffsetOutOfRange(_OUT_OF_RANGE.format(", ".join(map(_name, partitions))))


def ends_earlier(partitions: Iterable[TopicPartition]) -> OffsetOutOfRange:
    """These end before what has been read of them."""
    return OffsetOutOfRange(_ENDS_EARLIER.format(", ".join(map(_name, partitions))))


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}/{partition.partition}"


def _read_up_to(committed: int | None) -> str:
    return "no offset of this group is kept" if committed is None else f"this group has read up to {committed}"
