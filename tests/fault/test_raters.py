"""Raters that die between their steps, and two at once: one paused past its session, killed at random."""

from __future__ import annotations

import json
import random
import signal

import pytest

from tests.background import beside
from tests.fault.pipeline import Pipeline
from tests.fault.roles import KILLED

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

FAILPOINTS = ("after_rows", "within_coverage", "after_coverage", "after_acknowledgement", "after_commit")
ROUNDS = 2
SMALL_BATCHES: dict[str, str | int] = {"sink_batch_rows_max": 300, "sink_batch_age_ms": 50}


async def test_a_rater_that_dies_between_its_steps(pipeline: Pipeline) -> None:
    await pipeline.start("sink-postgres", settings=SMALL_BATCHES)
    armed = [f"{point}:{count}" for point, count in zip(FAILPOINTS, (3, 23, 3, 2, 2), strict=True)]
    rater = await pipeline.start("rater", armed=armed)

    async def has_died_at_each() -> bool:
        return len(rater.exits) >= len(FAILPOINTS)

    async with beside(pipeline.publish):
        await pipeline.wait("the rater dies at each point", has_died_at_each)
    await pipeline.wait_until_quiet()
    expected = await pipeline.judge()
    assert rater.exits == [KILLED] * len(FAILPOINTS)
    print(f"{len(FAILPOINTS)} faults, {expected.positions} positions")


@pytest.mark.campaign
async def test_two_raters_one_paused_past_its_session_and_killed_at_random(pipeline: Pipeline) -> None:
    """The paused one holds rows, coverage or a commit of partitions that the other one reads meanwhile."""
    chance = random.Random(pipeline.seed)
    await pipeline.start("sink-postgres", settings=SMALL_BATCHES)
    armed = ("within_coverage:21:stop",)  # half of its output partitions have been told, the others have not
    raters = [await pipeline.start("rater", is_alone=False, armed=points) for points in (armed, ())]
    async with beside(pipeline.watch):
        async with beside(pipeline.publish):
            for number in range(ROUNDS):
                if number == 0:
                    paused, other = raters
                    await pipeline.wait("the first rater pauses between two coverage records", paused.is_paused)
                else:
                    paused, other = chance.sample(raters, 2)
                    paused.signal(signal.SIGSTOP)
                await _until_its_session_is_over(pipeline)
                await pipeline.wait("the other one goes on", await pipeline.has_grown())
                paused.signal(signal.SIGCONT)
                await pipeline.wait("events flow with the zombie awake", await pipeline.has_grown())
                (paused if number % 2 else other).signal(signal.SIGKILL)
        await pipeline.wait_until_quiet()
    expected = await pipeline.judge()
    assert "TopicMadeAnew" not in "".join(path.read_text() for path in pipeline.home.glob("run/*.json"))
    print(f"{ROUNDS} pauses and kills, {expected.positions} positions")


async def _until_its_session_is_over(pipeline: Pipeline) -> None:
    """Until the group has gone on without the paused one: the broker ends its membership after 10 s."""

    async def has_gone_on() -> bool:
        return len(await pipeline.members("rater")) == 1

    await pipeline.wait("the group goes on without the paused one", has_gone_on)


async def test_without_a_broker_no_role_shows_a_lag(pipeline: Pipeline) -> None:
    await pipeline.start("rater")
    await pipeline.start("sink-postgres")

    def shown() -> list[tuple[str, int | None, str | None]]:
        files = [pipeline.home / "run" / f"{role}.json" for role in ("rater", "sink-postgres")]
        if not all(file.exists() for file in files):
            return [("not started", None, None)]
        reports = [json.loads(file.read_bytes()) for file in files]
        return [(report["state"], report.get("lag_records"), report.get("reason")) for report in reports]

    async def is_well() -> bool:
        return all((state, lag) == ("running", 0) for state, lag, _ in shown())

    async def is_unknown() -> bool:
        return all(state == "degraded" and lag is None and "lag unknown" in str(why) for state, lag, why in shown())

    await pipeline.wait("lag 0", is_well)
    pipeline.kill_server("kafka")
    await pipeline.wait("both are degraded", is_unknown)
    pipeline.start_servers()
    await pipeline.wait("lag 0 again", is_well)
