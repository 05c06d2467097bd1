"""Crashes of roles and servers, at chosen and at random moments; afterwards everything must be there, once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest

from tests.background import beside
from tests.fault.pipeline import Pipeline
from tests.fault.proxy import CommitCutter
from tests.fault.roles import KILLED

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

FAILPOINTS = ("before_begin", "after_cas", "after_claims", "after_ledger", "after_rollups", "after_commit")
SMALL_BATCHES: dict[str, str | int] = {"sink_batch_rows_max": 300, "sink_batch_age_ms": 50}
CUTS = 10
CAMPAIGN_S = float(os.environ.get("FAULT_SECONDS", "60"))


async def test_a_sink_that_dies_at_each_point_of_its_transaction(pipeline: Pipeline) -> None:
    await pipeline.start("rater")
    armed = [f"{point}:{count}" for point, count in zip(FAILPOINTS, (3, 2, 3, 2, 3, 2), strict=True)]
    sink = await pipeline.start("sink-postgres", armed=armed, settings=SMALL_BATCHES)
    await pipeline.publish_hostile()

    async def has_died_at_each() -> bool:
        return len(sink.exits) >= len(FAILPOINTS)

    async with beside(pipeline.publish):
        await pipeline.wait("the sink dies at each point", has_died_at_each)
    await pipeline.wait_until_quiet()
    expected = await pipeline.judge()
    assert sink.exits == [KILLED] * len(FAILPOINTS)
    assert expected.duplicates
    assert set(expected.rejected.values()) == {"unreadable", "invalid", "time", "amount", "conflict"}
    print(f"{len(FAILPOINTS)} faults, {expected.positions} positions")


async def _kill_at_random(pipeline: Pipeline, seconds: float, mean_s: float) -> str:
    """SIGKILL to rater or sink at random moments while events come and snapshots are verified; says how many."""
    chance = random.Random(pipeline.seed)
    roles = [await pipeline.start("rater"), await pipeline.start("sink-postgres", settings=SMALL_BATCHES)]
    kills = 0
    async with beside(pipeline.watch) as watch:
        async with beside(pipeline.publish):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await asyncio.sleep(chance.uniform(0.2, 2 * mean_s))  # the schedule of the faults
                chance.choice(roles).signal(signal.SIGKILL)
                kills += 1
        await pipeline.wait_until_quiet()
    assert all(code == KILLED for role in roles for code in role.exits)
    return f"{kills} faults, {watch.result()} snapshots"


async def test_random_kills_of_rater_and_sink(pipeline: Pipeline) -> None:
    faults = await _kill_at_random(pipeline, 15, 1.5)
    expected = await pipeline.judge()
    print(f"{faults}, {expected.positions} positions")


async def test_a_broker_and_a_database_that_are_killed(pipeline: Pipeline) -> None:
    await pipeline.start("rater")
    await pipeline.start("sink-postgres", settings=SMALL_BATCHES)
    for server in ("kafka", "postgres"):
        async with beside(pipeline.publish):
            await pipeline.wait("events flow", await pipeline.has_grown())
            pipeline.kill_server(server)
            pipeline.start_servers()
            # The stack of the tests runs with synchronous_commit = off, so a killed Postgres forgets its last commits;
            # the sink finds that out with the next batch, and reads again from where the database says.
            await pipeline.wait("events flow again", await pipeline.has_grown())
        await pipeline.wait_until_quiet()
    await pipeline.judge()


async def test_a_sink_that_was_paused_past_its_takeover_is_refused(pipeline: Pipeline) -> None:
    await pipeline.start("rater")
    # It pauses with a batch in its hands, right before the transaction: the next thing it does is to store that.
    paused = await pipeline.start(
        "sink-postgres", armed=["before_begin:3:stop"], is_alone=False, settings=SMALL_BATCHES
    )
    async with beside(pipeline.publish):
        await pipeline.wait("the first sink pauses", paused.is_paused)
        await pipeline.throw_out("sink-postgres")
        await pipeline.start("sink-postgres", is_alone=False, settings=SMALL_BATCHES)
        await pipeline.wait("the second sink stores", await pipeline.has_grown())
        assert "Fenced" not in paused.said()
        paused.signal(signal.SIGCONT)

        async def is_refused() -> bool:
            return "Fenced" in paused.said()

        await pipeline.wait("the paused sink is refused", is_refused)
    await pipeline.wait_until_quiet()
    await pipeline.judge()
    assert paused.exits == []


async def test_answers_to_commit_that_are_lost(pipeline: Pipeline) -> None:
    dsn = pipeline.settings.postgres_ingest_dsn.get_secret_value()
    host, _, port = dsn.rpartition("@")[2].partition("/")[0].partition(":")
    async with CommitCutter(host, int(port), nth=4, cuts_max=CUTS) as cutter:
        await pipeline.start("rater")
        await pipeline.start(
            "sink-postgres",
            settings={**SMALL_BATCHES, "postgres_ingest_dsn": dsn.replace(f":{port}/", f":{cutter.port}/")},
        )

        async def are_lost() -> bool:
            return cutter.cuts >= CUTS

        async with beside(pipeline.publish):
            await pipeline.wait("answers are lost", are_lost)
        await pipeline.wait_until_quiet()
        expected = await pipeline.judge()
        await pipeline.stop_roles()
    print(f"{cutter.cuts} lost answers, {expected.positions} positions")


@pytest.mark.campaign
@pytest.mark.timeout(CAMPAIGN_S * 2 + 900)
async def test_a_long_run_of_random_kills(pipeline: Pipeline) -> None:
    faults = await _kill_at_random(pipeline, CAMPAIGN_S, 1.0)
    expected = await pipeline.judge()
    print(f"{faults}, {expected.positions} positions, 0 violations")
