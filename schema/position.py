"""Where an event came from: source topic + generation, partition, and one int64 for offset and index.

`position = offset << 20 | index`; `index` is the place in the array as the producer sent it, 0 for a
record that holds one event. Positions of one source partition are ordered as the events are.
"""

from __future__ import annotations

from typing import Final, NamedTuple

INDEX_BITS: Final = 20
INDEX_MAX: Final = (1 << INDEX_BITS) - 1
NOTHING_COVERED: Final = -1
"""The covered position of a source partition of which nothing has been read yet."""


class SourcePartition(NamedTuple):
    """`source_id` is the number of a (topic, generation) in `topics.yaml`."""

    source_id: int
    partition: int


def position_of(offset: int, index: int = 0) -> int:
    """offset 3, index 1 -> 3 << 20 | 1."""
    return offset << INDEX_BITS | index


def split_position(position: int) -> tuple[int, int]:
    """-> (offset, index)."""
    return position >> INDEX_BITS, position & INDEX_MAX


def last_before(offset: int) -> int:
    """The highest position that lies before `offset`: what is covered when everything before it is."""
    return (offset << INDEX_BITS) - 1
