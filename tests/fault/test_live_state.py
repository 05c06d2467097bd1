"""What is stored of the live side, treated as it is over years: compacted, and cut into another number of buckets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from meterstream.deploy.kafka import client_options
from meterstream.processors.aggregation.checkpoint import split_key
from meterstream.processors.aggregation.fold import BUCKETS
from meterstream.schema import topics
from meterstream.schema.settings import Settings
from tests import topic_log
from tests.background import beside
from tests.fault import other_buckets
from tests.fault.live import ends, judge_live, publish_budgets, wait_until_live
from tests.fault.pipeline import Pipeline
from tests.fault.roles import KILLED, ROLES, Role

pytestmark = [pytest.mark.campaign, pytest.mark.stack, pytest.mark.timeout(600)]

CLEANED_AT_ONCE = {
    "cleanup.policy": "compact",
    "max.message.bytes": "8388608",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.001",
    "max.compaction.lag.ms": "1000",
    "delete.retention.ms": "0",
}
OTHER_BUCKETS = (str(Path(other_buckets.__file__)),)


@pytest.fixture(scope="module", autouse=True)
async def _budgets(prepared: Pipeline) -> None:
    await publish_budgets(prepared.settings)


async def test_topics_that_the_broker_has_compacted(pipeline: Pipeline) -> None:
    compacted = (topics.AGGREGATOR_STATE, topics.AGGREGATES)
    await pipeline.configure({topic: CLEANED_AT_ONCE for topic in compacted})
    await pipeline.start("rater")
    aggregator = await pipeline.start("aggregator", is_alone=False)
    async with beside(pipeline.publish):

        async def are_cleaned() -> bool:
            return all([await _is_cleaned(pipeline.settings, topic) for topic in compacted])

        await pipeline.wait("the cleaner has taken half of both", are_cleaned)
        await aggregator.end()
        await pipeline.throw_out("aggregator")
        await pipeline.start("aggregator")
    await wait_until_live(pipeline)
    expected = await judge_live(pipeline)
    print(f"{len(expected.windows)} windows, {len(expected.alerts)} alerts")


async def _is_cleaned(settings: Settings, topic: str) -> bool:
    written = sum((await ends(settings, topic)).values())
    return 0 < len(await topic_log.read(client_options(settings), topic)) < written / 2


async def test_another_number_of_buckets_and_back(pipeline: Pipeline) -> None:
    """Each of them dies once between the new records and the removal of the old ones."""
    await pipeline.start("rater")
    lives: list[Role] = []
    async with beside(pipeline.publish):
        for program, buckets in ((ROLES, BUCKETS), (OTHER_BUCKETS, other_buckets.BUCKETS), (ROLES, BUCKETS)):
            role = await pipeline.start("aggregator", armed=["after_state:1"] if lives else [], program=program)
            lives.append(role)
            await pipeline.wait(f"{buckets} buckets are stored", partial(_are_stored, pipeline.settings, buckets))
            assert role.exits == ([KILLED] if lives[1:] else [])
            if len(lives) < 3:
                await role.end()
                await pipeline.throw_out("aggregator")
    await wait_until_live(pipeline)
    await judge_live(pipeline)


async def _are_stored(settings: Settings, buckets: int) -> bool:
    """Whether each partition holds so many buckets, and no others."""
    newest: dict[bytes, bytes | None] = {}
    for record in await topic_log.read(client_options(settings), topics.AGGREGATOR_STATE):
        newest[record.key or b""] = record.value
    stored = [split_key(key) for key, value in newest.items() if value is not None]
    return len(stored) == buckets * topics.partitions_of(topics.PRICED) and {of for _, of, _ in stored} == {buckets}
