"""What to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from meterstream.producers.simulated import Profile

Stage = Literal["rater", "sink", "aggregator", "box", "latency", "state", "pricing"]
STAGES: Final[tuple[Stage, ...]] = ("rater", "sink", "aggregator", "box", "latency", "state", "pricing")

USUAL_PROFILES: Final[tuple[Profile, ...]] = ("lean", "full")

TENANTS: Final = 1_000
WARM_SHARE: Final = 10
"""The small run of a slope has one event for so many of the large run."""
WARM_EVENTS_MIN: Final = 200


@dataclass(frozen=True, kw_only=True)
class Options:
    """One run of the benchmark."""

    events: int
    """Of the large run of each stage."""
    seed: int
    profiles: tuple[Profile, ...]
    stages: tuple[Stage, ...]
    with_peers: bool
    faust_events: int
    """Of the large run of the Faust idiom, which is slow; the small one has a third."""
    rate: int
    """Events a second of the latency stage."""
    load_s: float
    """How long the latency stage's load lasts."""

    counters: tuple[int, ...] = (1_000, 100_000)
    """Live counters of the state stage."""

    @property
    def warm_events(self) -> int:
        """Of the small run, which is taken off the large one, so that start-up drops out."""
        return max(WARM_EVENTS_MIN, self.events // WARM_SHARE)

    @property
    def stages_to_run(self) -> tuple[Stage, ...]:
        """The stages that were asked for, and those whose output they need."""
        wanted = set(self.stages)
        if "sink" in wanted:
            wanted.add("rater")
        if "rater" in wanted and wanted & {"box", "latency"}:
            wanted.add("sink")  # what the rater priced has to be out of the way
        return tuple(stage for stage in STAGES if stage in wanted)
