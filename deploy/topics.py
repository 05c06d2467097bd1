"""The topics of the manifest on a real broker: compare, make what is missing, set what differs.

Partition counts are never changed: the counts of a generation are fixed, growth is the next generation. Only a source
topic may have more partitions than the manifest says, since nothing counts on how many there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from meterstream.deploy.connections import CONNECT_TIMEOUT_S, Connection, administrator, reader, resolve
from meterstream.deploy.failures import kafka_said
from meterstream.deploy.kafka import client_options
from meterstream.producers.transport.kafka import connecting
from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.settings import Settings
from meterstream.schema.topics import Topic, manifest
from meterstream.sinks.postgres.verify import sources_held

COPIES_MAX: Final = 3
"""A topic is made with this many copies, or with as many as there are brokers."""

REQUEST_TIMEOUT_MS: Final = 15_000
VISIBLE_WITHIN_S: Final = 15.0
_POLL_S: Final = 0.05

_SET_ON_TOPIC: Final = 1
"""Kafka's `config_source` of a value that was set for this very topic."""


@dataclass(frozen=True)
class Actual:
    """A topic as the broker has it. `config`: every setting in force; `own`: those that were set for this topic."""

    partitions: int
    copies: int
    config: Mapping[str, str]
    own: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """One way in which the broker is not as the manifest says. `setting` is empty for a missing topic."""

    topic: str
    setting: str
    wanted: str
    actual: str

    def __str__(self) -> str:
        if not self.setting:
            return f"{self.topic}: is missing; `meterstream topics apply` makes it"
        if self.setting == "partitions":
            return (
                f"{self.topic}: has {self.actual} partitions, the manifest says {self.wanted}; the count of a "
                "generation is fixed: change the manifest back, or add the next generation and drain this one"
            )
        return (
            f"{self.topic}: {self.setting} is {self.actual}, the manifest says {self.wanted}; "
            "`meterstream topics apply` sets it"
        )


def compare(wanted: Mapping[str, Topic], actual: Mapping[str, Actual]) -> list[Difference]:
    """Every difference, in the manifest's order. Topics that only the broker has are none of ours. Pure."""
    found: list[Difference] = []
    for name, topic in wanted.items():
        there = actual.get(name)
        if there is None:
            found.append(Difference(name, "", "", ""))
            continue
        if there.partitions < topic.partitions or (there.partitions > topic.partitions and topic.role != "source"):
            found.append(Difference(name, "partitions", str(topic.partitions), str(there.partitions)))
        for setting, value in topic.config.items():
            if there.config.get(setting) != str(value):
                found.append(Difference(name, setting, str(value), there.config.get(setting, "not set")))
    return found


def notes(wanted: Mapping[str, Topic], actual: Mapping[str, Actual]) -> list[str]:
    """What is worth knowing, though it is no difference. Pure."""
    return [
        f"{name}: has {actual[name].partitions} partitions, {topic.partitions} in the manifest; "
        "of a source topic all are read, whatever their number"
        for name, topic in wanted.items()
        if name in actual and topic.role == "source" and actual[name].partitions > topic.partitions
    ]


async def apply(settings: Settings) -> list[str]:
    """Makes missing topics and sets settings that differ; returns what was done, nothing the second time.

    Settings of a topic that the manifest does not name stay as they are. Returns when every topic can be used.
    Blocks on the broker, at most about a minute. Raises UsageError, before anything is changed, where a partition
    count differs, or a source topic is missing of which the database holds positions: anew it would begin where all has
    been stored. Also where the broker cannot be reached or refuses, or the database cannot be asked.
    """
    wanted = manifest()
    async with _admin(settings) as admin:
        actual = await _describe(admin, wanted)
        differences = compare(wanted, actual)
        fixed = [difference for difference in differences if difference.setting == "partitions"]
        if fixed:
            raise UsageError("nothing was changed:" + "".join(f"\n  - {difference}" for difference in fixed))
        missing = [wanted[difference.topic] for difference in differences if not difference.setting]
        await _refuse_what_was_read(settings, [topic for topic in missing if topic.role == "source"])
        differing = [difference for difference in differences if difference.setting]
        made = await _create(admin, missing)
        return made + await _configure(admin, wanted, actual, differing)


async def _refuse_what_was_read(settings: Settings, missing: Sequence[Topic]) -> None:
    database = _database(settings) if missing else None
    if database is None:
        return
    async with database as connection:
        held = await sources_held(connection)
    lost = [f"{topic.name} (source_id {topic.source_id})" for topic in missing if topic.source_id in held]
    if lost:
        raise UsageError(
            f"nothing was changed: {', '.join(lost)} is missing, but the database holds positions of it. Made anew, it "
            "would begin at offset 0, where all has been stored already. Restore it, or give it a new source_id; "
            'see docs/operate.md, "A source topic was deleted"'
        )


def _database(settings: Settings) -> AbstractAsyncContextManager[Connection] | None:
    """The database that the settings or this folder's stack name; None: there is none to ask from here."""
    if settings.postgres_reader_dsn.get_secret_value() and not settings.postgres_admin_dsn.get_secret_value():
        return reader(settings)
    try:
        return administrator(resolve(settings, ["postgres_admin_dsn"]))
    except UsageError:
        return None


async def verify(settings: Settings) -> list[Difference]:
    """Every difference between broker and manifest. Changes nothing. Raises UsageError where it cannot be reached."""
    return compare(manifest(), await describe(settings))


async def partitions(settings: Settings, names: Iterable[str]) -> dict[str, int]:
    """topic -> how many partitions the broker has of it. Raises UsageError, also where a topic is missing."""
    wanted = list(names)
    async with _admin(settings) as admin:
        found = await _partitions(admin, wanted)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UsageError(f"the broker has no topic {', '.join(missing)}: `meterstream topics verify` says more")
    return {name: len(found[name]) for name in wanted}


async def cluster_id(settings: Settings) -> str:
    """Of the broker's cluster. Raises UsageError where it cannot be reached."""
    async with _admin(settings) as admin:
        return str((await admin.describe_cluster())["cluster_id"])


async def describe(settings: Settings) -> dict[str, Actual]:
    """The manifest's topics as the broker has them; a missing one is left out. Raises UsageError."""
    async with _admin(settings) as admin:
        return await _describe(admin, manifest())


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    options = client_options(settings)
    admin = AIOKafkaAdminClient(**options, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        with connecting(options):
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await admin.start()
        yield admin
    except (KafkaError, OSError) as error:
        raise Unreachable(
            f"the broker at {settings.kafka_bootstrap} cannot do this: {kafka_said(error)}; "
            "`meterstream status` shows what runs"
        ) from error
    finally:
        await admin.close()


async def _describe(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Actual]:
    partitions = await _partitions(admin, names)
    if not partitions:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in partitions]
    found: dict[str, Actual] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries in response.resources:
            if code == UnknownTopicOrPartitionError.errno:
                continue  # it was deleted since its partitions were asked for
            _raise_for(code, f"{name}: {message}")
            found[name] = Actual(
                partitions=len(partitions[name]),
                copies=min(len(partition["replicas"]) for partition in partitions[name]),
                config={entry[0]: entry[1] for entry in entries},
                own={entry[0]: entry[1] for entry in entries if entry[3] == _SET_ON_TOPIC},
            )
    return found


async def _partitions(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """topic -> its partitions, for those that exist."""
    found: dict[str, list[dict[str, Any]]] = {}
    for topic in await admin.describe_topics(list(names)):
        if topic["error_code"] != UnknownTopicOrPartitionError.errno:
            _raise_for(topic["error_code"], topic["topic"])
            found[topic["topic"]] = topic["partitions"]
    return found


async def _create(admin: AIOKafkaAdminClient, missing: list[Topic]) -> list[str]:
    if not missing:
        return []
    copies = min(COPIES_MAX, len((await admin.describe_cluster())["brokers"]))
    new = [
        NewTopic(topic.name, topic.partitions, copies, topic_configs={k: str(v) for k, v in topic.config.items()})
        for topic in missing
    ]
    response = await admin.create_topics(new)
    for name, code, message in response.topic_errors:
        if code != TopicAlreadyExistsError.errno:  # another `apply` was faster
            _raise_for(code, f"{name}: {message}")
    await _until_usable(admin, missing)
    return [f"{topic.name}: made with {topic.partitions} partitions, copies: {copies}" for topic in missing]


async def _until_usable(admin: AIOKafkaAdminClient, made: list[Topic]) -> None:
    """A made topic is visible a moment later; a client that comes earlier would wait for its whole timeout."""
    names = [topic.name for topic in made]
    async with asyncio.timeout(VISIBLE_WITHIN_S):
        while True:
            partitions = await _partitions(admin, names)
            if all(_has_leaders(partitions.get(topic.name, []), topic.partitions) for topic in made):
                return
            await asyncio.sleep(_POLL_S)


def _has_leaders(partitions: list[dict[str, Any]], wanted: int) -> bool:
    return len(partitions) == wanted and all(partition["leader"] >= 0 for partition in partitions)


async def _configure(
    admin: AIOKafkaAdminClient, wanted: Mapping[str, Topic], actual: Mapping[str, Actual], differing: list[Difference]
) -> list[str]:
    names = sorted({difference.topic for difference in differing})
    if not names:
        return []
    # AlterConfigs replaces all settings of a topic, so those that we do not name are sent along.
    resources = [
        ConfigResource(
            ConfigResourceType.TOPIC,
            name,
            {**actual[name].own, **{key: str(value) for key, value in wanted[name].config.items()}},
        )
        for name in names
    ]
    for response in await admin.alter_configs(resources):
        for code, message, _, name in response.resources:
            _raise_for(code, f"{name}: {message}")
    await _until_set(admin, {name: wanted[name] for name in names})
    return [f"{d.topic}: {d.setting} set to {d.wanted}, was {d.actual}" for d in differing]


async def _until_set(admin: AIOKafkaAdminClient, changed: Mapping[str, Topic]) -> None:
    """The controller has a setting a moment before the brokers show it."""
    async with asyncio.timeout(VISIBLE_WITHIN_S):
        while True:
            if not compare(changed, await _describe(admin, changed)):
                return
            await asyncio.sleep(_POLL_S)


def _raise_for(code: int, what: str) -> None:
    if code:
        raise for_code(code)(what)
