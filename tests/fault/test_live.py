"""The aggregator under faults: afterwards every window, budget and alert is what the priced log says."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.background import beside
from tests.fault.changes import change_budgets
from tests.fault.live import judge_live, judge_stored, publish_budgets, wait_until_live, wake_up_late
from tests.fault.pipeline import Pipeline
from tests.fault.roles import KILLED, Role

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

CAMPAIGN_S = float(os.environ.get("FAULT_SECONDS", "60"))
SMALL_BATCHES: dict[str, str | int] = {"sink_batch_rows_max": 300, "sink_batch_age_ms": 50}
FAILPOINTS = ("after_cut", "after_alerts", "after_aggregates", "after_state", "after_acknowledgement")
CHANGES = ("after_beginnings", "after_begun")
"""Where versions of budgets begin."""


@pytest.fixture(scope="module", autouse=True)
async def _budgets(prepared: Pipeline) -> None:
    await publish_budgets(prepared.settings)


async def test_an_aggregator_that_dies_at_each_point_of_its_flush(pipeline: Pipeline) -> None:
    await pipeline.start("rater")
    armed = [f"{point}:2" for point in CHANGES] + [f"{point}:9" for point in FAILPOINTS]
    aggregator = await pipeline.start("aggregator", armed=armed)

    async def has_died() -> bool:
        return len(aggregator.exits) == len(armed)

    async with beside(pipeline.publish), beside(partial(change_budgets, pipeline)) as changes:
        await pipeline.wait("it has died at each point", has_died)
    await pipeline.publish_hostile()
    await wait_until_live(pipeline)
    expected = await judge_live(pipeline)
    assert aggregator.exits == [KILLED] * len(armed)
    print(f"{len(armed)} faults, {changes.result()} changes, {expected}")


async def _kill_at_random(pipeline: Pipeline, seconds: float, mean_s: float) -> str:
    """SIGKILL to the rater, the sink or one of two aggregators at random moments; says how many.

    Meanwhile events come, and budgets are made, changed and removed.
    """
    chance = random.Random(pipeline.seed)
    names = ["rater", "aggregator", "aggregator", "sink-postgres"]
    roles = [
        await pipeline.start(name, is_alone=False, settings={"instance": f"{name}-{number}", **SMALL_BATCHES})
        for number, name in enumerate(names)
    ]
    until = time.monotonic() + seconds
    kills = 0
    async with beside(pipeline.publish), beside(partial(change_budgets, pipeline)) as changes:
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(0.2, 2 * mean_s))  # the schedule of the faults
            chance.choice(roles).signal(signal.SIGKILL)
            kills += 1
    await wait_until_live(pipeline)
    assert all(code == KILLED for role in roles for code in role.exits)
    expected = await judge_live(pipeline)
    await judge_stored(pipeline, expected)
    return f"{kills} kills, {changes.result()} changes, {expected}"


async def test_random_kills_of_rater_aggregators_and_sink(pipeline: Pipeline) -> None:
    print(await _kill_at_random(pipeline, 20, 2.0))


@pytest.mark.campaign
async def test_a_second_aggregator_that_joins_and_leaves(pipeline: Pipeline) -> None:
    await pipeline.start("rater")
    await pipeline.start("aggregator", is_alone=False)
    async with beside(pipeline.publish), beside(partial(change_budgets, pipeline)):
        for _ in range(2):
            second = await pipeline.start("aggregator", is_alone=False)

            await pipeline.wait("the second has partitions", partial(_says, second, "live: partitions"))
            await second.stop()
            assert second.exits == [0]
    await wait_until_live(pipeline)
    await judge_live(pipeline)


async def test_an_aggregator_that_was_paused_past_its_takeover(pipeline: Pipeline) -> None:
    await wake_up_late(pipeline)
    await wait_until_live(pipeline)
    await judge_live(pipeline)


async def test_an_aggregator_is_live_before_faust_delivers(pipeline: Pipeline) -> None:
    """Faust takes seconds over a table that nobody asks it for."""
    await pipeline.start("rater")
    program = [str(Path(__file__).with_name("undelivered.py"))]
    aggregator = await pipeline.start("aggregator", program=program)
    async with beside(pipeline.publish):
        await pipeline.wait("it is live", partial(_says, aggregator, "live: partitions"))
    await wait_until_live(pipeline)
    await judge_live(pipeline)
    assert not aggregator.exits


@pytest.mark.campaign
async def test_a_broker_that_is_killed_under_an_aggregator(pipeline: Pipeline) -> None:
    await pipeline.start("rater")
    aggregator = await pipeline.start("aggregator")
    await pipeline.wait("it is live", partial(_says, aggregator, "live: partitions"))
    async with beside(pipeline.publish):
        pipeline.kill_server("kafka")
        pipeline.start_servers()
    await wait_until_live(pipeline)
    await judge_live(pipeline)


async def test_a_broker_that_dies_between_aggregates_and_state(pipeline: Pipeline) -> None:
    """What Faust cannot send any more must end the process, not hang it."""
    await pipeline.start("rater")
    aggregator = await pipeline.start("aggregator", armed=["after_aggregates:9:stop"])

    async def has_ended() -> bool:
        return bool(aggregator.exits)

    async with beside(pipeline.publish):
        await pipeline.wait("it pauses", aggregator.is_paused)
    pipeline.kill_server("kafka")
    aggregator.signal(signal.SIGCONT)
    await pipeline.wait("it ends", has_ended)
    pipeline.start_servers()
    await wait_until_live(pipeline)
    await judge_live(pipeline)


async def _says(role: Role, text: str) -> bool:
    return text in role.said()


@pytest.mark.campaign
@pytest.mark.timeout(CAMPAIGN_S * 2 + 300)
async def test_a_long_run_of_random_kills_beside_aggregators(pipeline: Pipeline) -> None:
    print(await _kill_at_random(pipeline, CAMPAIGN_S, 1.5), "0 differences")
