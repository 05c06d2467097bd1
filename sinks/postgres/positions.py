"""The prefixes of one partition as `sink_positions` keeps them: positions in `covered`, watermarks beside them.

Two columns, because a sink of an older version knows only the first: where the two do not say the same position, such
a sink has written since, and the watermark is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from meterstream.schema import coverage
from meterstream.schema.coverage import UNKNOWN_MS, Prefix, Prefixes
from meterstream.schema.position import SourcePartition


def dump(prefixes: Mapping[SourcePartition, Prefix]) -> tuple[str, str]:
    """-> the JSON of `covered`, {"source_id/partition": position}, and of `prefixes` (`coverage.dump`)."""
    positions = {f"{source_id}/{partition}": prefix.position for (source_id, partition), prefix in prefixes.items()}
    return json.dumps(positions), coverage.dump(prefixes)


def load(covered: str, prefixes: str) -> Prefixes:
    """The reverse of `dump`."""
    stored = coverage.load(prefixes)
    return {
        source: stored[source]
        if source in stored and stored[source].position == position
        else Prefix(position, UNKNOWN_MS)
        for source, position in load_covered(covered).items()
    }


def load_covered(covered: str) -> dict[SourcePartition, int]:
    """source partition -> the highest position stored."""
    positions: dict[SourcePartition, int] = {}
    for key, position in json.loads(covered).items():
        source_id, _, partition = key.partition("/")
        positions[SourcePartition(int(source_id), int(partition))] = position
    return positions
