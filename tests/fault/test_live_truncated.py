"""A log that lost records before the aggregator read them. On a stack of its own: it stays incomplete."""

from __future__ import annotations

import re
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
    named = _named_states(refused)
    assert len(named.split(",")) == len(now), "all of them at once"
    await refused.end()

    accepts = {"aggregator_bootstrap": named}
    asked = await pipeline.start("aggregator", settings=accepts)
    await wait_until_live(pipeline)
    assert all(window.partial for window in await newest_windows(pipeline.settings))
    await asked.stop()
    assert asked.exits == [0]

    again = await pipeline.start("aggregator", settings=accepts)  # it has its beginning stored: nothing is begun anew
    rater = await pipeline.start("rater")
    async with beside(pipeline.publish):
        await pipeline.wait("it is live", partial(_has_said, again, "live: partitions"))
        await wait_until_live(pipeline)
        assert "counting begins" not in again.said()
        assert any(window.partial for window in await newest_windows(pipeline.settings))
        await again.stop()
        assert again.exits == [0]
        seen = await ends(pipeline.settings, topics.PRICED)
        await pipeline.wait("more is priced in every partition", has_grown)
    await rater.stop()
    now = await ends(pipeline.settings, topics.PRICED)
    await pipeline.truncate(topics.PRICED, {number: end - 1 for number, end in now.items()})
    other_loss = await pipeline.start("aggregator", settings=accepts)
    await pipeline.wait("it stops", partial(_has_exited, other_loss, STOPPED))
    assert not set(_named_states(other_loss).split(",")) & set(named.split(",")), "what was accepted was another loss"


def _named_states(role: Role) -> str:
    """What it says that a person may accept."""
    found = re.search(r"METERSTREAM_AGGREGATOR_BOOTSTRAP=(\S+)", role.said())
    assert found is not None, role.said()
    return found[1]


async def _has_exited(role: Role, code: int) -> bool:
    return code in role.exits


async def _has_said(role: Role, text: str) -> bool:
    return text in role.said()
