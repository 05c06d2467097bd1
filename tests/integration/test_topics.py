"""Topics on a real broker: made once, verified, never repartitioned."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from click.testing import CliRunner

from meterstream.deploy import topics
from meterstream.deploy.cli.topics import topics as command
from meterstream.deploy.connections import resolve
from meterstream.deploy.kafka import client_options
from meterstream.schema.errors import UsageError
from meterstream.schema.settings import Settings
from meterstream.schema.topics import RAW, manifest

pytestmark = pytest.mark.stack
DEADLINE_S = 100.0


@pytest.fixture
async def settings(home: Path) -> AsyncIterator[Settings]:
    """Of the module's stack, on which there is no topic."""
    settings = resolve(Settings(home=home), ["kafka_bootstrap"])
    yield settings
    client = AIOKafkaAdminClient(**client_options(settings))
    await client.start()
    await client.delete_topics(list(await topics.describe(settings)))
    await client.close()
    async with asyncio.timeout(DEADLINE_S):
        while await topics.describe(settings):
            await asyncio.sleep(0.05)  # a poll with a deadline


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client of the test's own."""
    client = AIOKafkaAdminClient(**client_options(settings))
    await client.start()
    yield client
    await client.close()


async def alter(settings: Settings, admin: AIOKafkaAdminClient, config: dict[str, str]) -> None:
    """Somebody else changes the raw topic; returns when the broker shows it."""
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, RAW, config)])
    async with asyncio.timeout(DEADLINE_S):
        while (await topics.describe(settings))[RAW].own != config:
            await asyncio.sleep(0.05)  # a poll with a deadline


async def test_apply_makes_every_topic_as_the_manifest_says_and_then_does_nothing(settings: Settings) -> None:
    before = await topics.verify(settings)
    assert [(d.topic, d.setting) for d in before] == [(name, "") for name in manifest()]

    done = await topics.apply(settings)
    assert len(done) == len(manifest())
    actual = await topics.describe(settings)
    assert {name: there.partitions for name, there in actual.items()} == {
        name: topic.partitions for name, topic in manifest().items()
    }
    for name, topic in manifest().items():
        assert dict(actual[name].own) == {key: str(value) for key, value in topic.config.items()}
    assert await topics.verify(settings) == []
    assert await topics.apply(settings) == []


async def test_apply_sets_back_what_differs_and_leaves_other_settings_alone(
    settings: Settings, admin: AIOKafkaAdminClient
) -> None:
    await topics.apply(settings)
    mine = {**(await topics.describe(settings))[RAW].own, "retention.ms": "1000", "segment.bytes": "2097152"}
    await alter(settings, admin, mine)

    wanted = str(manifest()[RAW].config["retention.ms"])
    assert await topics.verify(settings) == [topics.Difference(RAW, "retention.ms", wanted, "1000")]
    assert await topics.apply(settings) == [f"{RAW}: retention.ms set to {wanted}, was 1000"]
    assert (await topics.describe(settings))[RAW].own == {**mine, "retention.ms": wanted}


async def test_another_partition_count_is_refused_before_anything_is_changed(
    settings: Settings, admin: AIOKafkaAdminClient
) -> None:
    await make_different(settings, admin)
    with pytest.raises(UsageError, match=r"usage\.rejected: has 9 partitions, the manifest says 4.*next generation"):
        await topics.apply(settings)
    assert (await topics.describe(settings))[RAW].own["retention.ms"] == "1000"

    found = {(d.topic, d.setting) for d in await topics.verify(settings)}
    assert found == {(RAW, "retention.ms"), ("usage.rejected", "partitions")}


async def make_different(settings: Settings, admin: AIOKafkaAdminClient) -> None:
    """In two ways, of which one cannot be mended."""
    await topics.apply(settings)
    own = dict((await topics.describe(settings))[RAW].own)
    await alter(settings, admin, {**own, "retention.ms": "1000"})
    await admin.create_partitions({"usage.rejected": NewPartitions(9)})
    async with asyncio.timeout(DEADLINE_S):
        while (await topics.describe(settings))["usage.rejected"].partitions != 9:
            await asyncio.sleep(0.05)  # a poll with a deadline


async def test_the_command_exits_1_and_names_each_difference(
    settings: Settings, admin: AIOKafkaAdminClient, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_different(settings, admin)
    monkeypatch.setenv("METERSTREAM_HOME", str(home))
    told = await asyncio.to_thread(CliRunner().invoke, command, ["verify"])
    assert told.exit_code == 1
    assert "usage.raw: retention.ms is 1000" in told.output
    assert "usage.rejected: has 9 partitions" in told.output

    as_json = await asyncio.to_thread(CliRunner().invoke, command, ["verify", "--json"])
    assert as_json.exit_code == 1
    assert {row["topic"] for row in json.loads(as_json.output)} == {RAW, "usage.rejected"}

    listed = json.loads((await asyncio.to_thread(CliRunner().invoke, command, ["ls", "--json"])).output)
    assert {row["topic"]: row["actual_partitions"] for row in listed}["usage.rejected"] == 9


async def test_without_a_broker_the_answer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no broker: run `meterstream up` or set METERSTREAM_KAFKA_BOOTSTRAP"):
        resolve(Settings(home=tmp_path / "none"), ["kafka_bootstrap"])
