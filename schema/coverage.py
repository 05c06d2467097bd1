"""How far a consumer of our topics has come in each source partition, and what is news to it. Pure.

In each partition of our topics the covered positions of a source partition are a prefix. So one number tells a repeat
(of the rater, or of the consumer's own reading) from news, and a hole is seen at once.

The watermark beside it tells a repeat from a stranger. A broker gives a record its append time once, so no position of
the prefix has one later than the prefix's watermark. What stands inside the prefix and was appended later is another
record under the same offset: the source topic was deleted and made anew, or its broker lost records that it had
confirmed. Skipping it would lose it without a sound.

- A watermark is a maximum, so a broker's clock that steps back does no harm. Nor does one that is higher than that of
  the prefix itself, as long as the same topic has given it: all that comes after the topic is later still.
- A prefix whose watermark is not known (a writer of an older version) judges nothing until a record that goes beyond it
  says one. Only if the broker's clock stood still or went back since then could a repeat be taken for a stranger.
- A source topic with CreateTime would do as well: a record's time only has to stay what it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from meterstream.schema.errors import CoverageGap, TopicMadeAnew, UnknownSource
from meterstream.schema.position import NOTHING_COVERED, SourcePartition, split_position

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)

UNKNOWN_MS: Final = 0
"""The watermark of a prefix that is empty, or was written by a version that stored none."""


class Prefix(NamedTuple):
    """What is covered of one source partition: every position up to `position`."""

    position: int
    watermark_ms: int
    """No record up to `position` was appended later, ms since 1970; UNKNOWN_MS."""


NOTHING: Final = Prefix(NOTHING_COVERED, UNKNOWN_MS)
Prefixes = dict[SourcePartition, Prefix]


def advance(
    prefixes: Prefixes, source: SourcePartition, lo: int, hi: int, watermark_ms: int, known_sources: Collection[int]
) -> Prefix:
    """Covers [lo, hi] and returns what was covered before: ask `is_repeat` of every position up to there.

    `watermark_ms`: no record of [lo, hi] was appended later; UNKNOWN_MS where the writer does not say. Raises
    CoverageGap when positions between are missing, UnknownSource.
    """
    check_source(source, known_sources)
    before = prefixes.get(source, NOTHING)
    if lo > before.position + 1:
        raise CoverageGap(
            f"source {source.source_id} partition {source.partition}: stored up to {_place(before.position)}, but the "
            f"next record begins at {_place(lo)}; what lies between never came. See docs/operate.md"
        )
    if hi > before.position:
        known = watermark_ms != UNKNOWN_MS
        prefixes[source] = Prefix(hi, max(before.watermark_ms, watermark_ms) if known else UNKNOWN_MS)
    return before


def is_repeat(
    before: Prefix, source: SourcePartition, position: int, appended_ms: int, retired: Collection[int] = ()
) -> bool:
    """True: it is covered already, skip it. False: it is new. `before`: what was covered before its record came.

    Ask it of rows and of rejected records; of a part of a coverage record with its `hi` and its watermark. `retired`:
    source ids that nobody reads any more; what was made anew under one of them is read again under another, so it
    counts as a repeat. Raises TopicMadeAnew when the position is covered, but by another record.
    """
    if position > before.position:
        return False
    if appended_ms > before.watermark_ms != UNKNOWN_MS and source.source_id not in retired:
        raise TopicMadeAnew(
            f"source {source.source_id} partition {source.partition}: what now stands at {_place(position)} was "
            f"appended at {_time(appended_ms)}, but everything up to {_place(before.position)} was stored already, and "
            f"none of it was appended after {_time(before.watermark_ms)}: the topic was deleted and made anew, or its "
            "broker lost records that it had confirmed. Nothing of it is skipped or stored; see docs/operate.md"
        )
    return True


def milliseconds(moment: datetime) -> int:
    """Aware -> ms since 1970, cut."""
    return (moment - _EPOCH) // _MS


def check_source(source: SourcePartition, known_sources: Collection[int]) -> None:
    """Raises UnknownSource."""
    if source.source_id not in known_sources:
        raise UnknownSource(
            f"source {source.source_id} is not in this version's topics.yaml: upgrade the sinks before the raters"
        )


def dump(prefixes: Mapping[SourcePartition, Prefix]) -> str:
    """-> JSON: {"source_id/partition": [position, watermark_ms]}."""
    return json.dumps({f"{source_id}/{partition}": prefix for (source_id, partition), prefix in prefixes.items()})


def load(text: str) -> Prefixes:
    """The reverse of `dump`."""
    prefixes: Prefixes = {}
    for key, prefix in json.loads(text).items():
        source_id, _, partition = key.partition("/")
        prefixes[SourcePartition(int(source_id), int(partition))] = Prefix(*prefix)
    return prefixes


def _place(position: int) -> str:
    if position == NOTHING_COVERED:
        return "nothing"
    offset, index = split_position(position)
    return f"offset {offset} index {index}"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
