"""A log that lost records before the aggregator read them. On a stack of its own: it stays incomplete."""

from __future__ import annotations

from functools import partial

import pytest

from meterstream.schema import topics
from tests.background import beside
from tests.fault.live import ends, newest_windows, wait_until_live
from tests.fault.pipeline import Pipeline
from tests.fault.roles import Role

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
STOPPED = 70


async def test_counting_begins_in_mid_log_only_when_asked(pipeline: Pipeline) -> None:
    rater = await pipeline.start("rater")
    first = await pipeline.start("aggregator")
    async with beside(pipeline.publish):
        await pipeline.wait("it is live", partial(_has_said, first, "live: partitions"))
        await wait_until_live(pipeline)
        await first.stop()
        seen = await ends(pipeline.settings, topics.PRICED)

        async def has_grown() -> bool:
            now = await ends(pipeline.settings, topics.PRICED)
            return all(now[number] > seen[number] + 1 for number in seen)

        await pipeline.wait("more is priced in every partition", has_grown)
    await rater.stop()
    assert await newest_windows(pipeline.settings)
    now = await ends(pipeline.settings, topics.PRICED)
    await pipeline.truncate(topics.PRICED, {number: end - 1 for number, end in now.items()})
    refused = await pipeline.start("aggregator")
    await pipeline.wait("it stops", partial(_has_exited, refused, STOPPED))
    assert "METERSTREAM_AGGREGATOR_BOOTSTRAP" in refused.said()
    await refused.end()

    asked = await pipeline.start("aggregator", settings={"aggregator_bootstrap": "true"})
    await wait_until_live(pipeline)
    assert all(window.partial for window in await newest_windows(pipeline.settings))
    await asked.stop()
    assert asked.exits == [0]

    again = await pipeline.start("aggregator")  # it has its beginning stored: no word is needed any more
    await pipeline.start("rater")
    async with beside(pipeline.publish):
        await pipeline.wait("it is live", partial(_has_said, again, "live: partitions"))
    await wait_until_live(pipeline)
    assert any(window.partial for window in await newest_windows(pipeline.settings))
    assert again.exits == []


async def _has_exited(role: Role, code: int) -> bool:
    return code in role.exits


async def _has_said(role: Role, text: str) -> bool:
    return text in role.said()
