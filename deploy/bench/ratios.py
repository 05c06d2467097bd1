"""Our figures against the peers' of the same run, beside the bars and goals of the design."""

from __future__ import annotations

from typing import Final

from meterstream.deploy.bench.peers import COPY, FAUST, FAUST_BOTH, FAUST_LIVE, FLOOR
from meterstream.deploy.bench.results import ProfileFigures, Ratio

# µs on the machine that the design's figures are of; there the floor, one stock aiokafka loop, costs FLOOR_THERE_US.
FLOOR_THERE_US: Final = 3.65
RATER_BAR_US: Final = 5.0
RATER_GOAL_US: Final = 3.5
LIVE_BARS: Final = ("≥ 30", "≥ 60")


def ratios(figures: ProfileFigures) -> list[Ratio]:
    """Those that the figures allow: what is below zero is noise of too few events, and gives none."""
    cost = {peer.name: peer.cpu_us for peer in figures.peers if peer.cpu_us > 0}
    found: list[Ratio] = []
    rater, sink = figures.rater, figures.sink
    if rater and FLOOR in cost:
        bar, goal = RATER_BAR_US / FLOOR_THERE_US, RATER_GOAL_US / FLOOR_THERE_US
        found.append(Ratio(f"rater / {FLOOR}", rater.cpu_us / cost[FLOOR], f"≤ {bar:.2f}", f"≤ {goal:.2f}"))
    if rater and rater.cpu_us > 0 and FAUST in cost:
        found.append(Ratio(f"{FAUST} / rater", cost[FAUST] / rater.cpu_us, "≥ 30", "≥ 60"))
    for live in figures.aggregator:
        if live.cpu_us > 0 and FAUST_LIVE in cost:
            name = f"{FAUST_LIVE} / ours, {live.packs}"
            found.append(Ratio(name, cost[FAUST_LIVE] / live.cpu_us, *LIVE_BARS))
        if rater and live.cpu_us > 0 and FAUST_BOTH in cost:
            name = f"{FAUST_BOTH} / ours, {live.packs}"
            found.append(Ratio(name, cost[FAUST_BOTH] / (rater.cpu_us + live.cpu_us), *LIVE_BARS))
    if sink and COPY in cost:
        found.append(Ratio(f"sink / {COPY}", sink.cpu_us / cost[COPY], "≤ 3", "≤ 2"))
    return found
