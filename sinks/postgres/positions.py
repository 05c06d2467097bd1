"""Which rows are new: the covered position per source partition. Pure.

In each partition of our topics the covered positions of a source partition are a prefix. So one number
tells a repeat (of the rater, or of our own reading) from news, and a hole is seen at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from meterstream.schema.errors import CoverageGap, UnknownSource
from meterstream.schema.position import NOTHING_COVERED, SourcePartition, split_position

Covered = dict[SourcePartition, int]
"""source partition -> the highest position that is stored."""


def advance(covered: Covered, source: SourcePartition, lo: int, hi: int, known_sources: Collection[int]) -> int:
    """Covers [lo, hi] and returns what was covered before: every position up to that is a repeat.

    Raises CoverageGap when positions between are missing, UnknownSource.
    """
    check_source(source, known_sources)
    before = covered.get(source, NOTHING_COVERED)
    if lo > before + 1:
        raise CoverageGap(
            f"source {source.source_id} partition {source.partition}: stored up to {_place(before)}, but the next "
            f"record begins at {_place(lo)}; what lies between never came. See docs/operate.md"
        )
    if hi > before:
        covered[source] = hi
    return before


def check_source(source: SourcePartition, known_sources: Collection[int]) -> None:
    """Raises UnknownSource."""
    if source.source_id not in known_sources:
        raise UnknownSource(
            f"source {source.source_id} is not in this version's topics.yaml: upgrade the sinks before the raters"
        )


def dump(covered: Mapping[SourcePartition, int]) -> str:
    """-> the JSON of `sink_positions.covered`: {"source_id/partition": position}."""
    return json.dumps({f"{source_id}/{partition}": position for (source_id, partition), position in covered.items()})


def load(text: str) -> Covered:
    """The reverse of `dump`."""
    covered: Covered = {}
    for key, position in json.loads(text).items():
        source_id, _, partition = key.partition("/")
        covered[SourcePartition(int(source_id), int(partition))] = position
    return covered


def _place(position: int) -> str:
    if position == NOTHING_COVERED:
        return "nothing"
    offset, index = split_position(position)
    return f"offset {offset} index {index}"
