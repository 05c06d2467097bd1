"""The topic manifest `topics.yaml` as typed data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, Literal
from zlib import crc32

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from meterstream.schema.errors import Unreachable, UsageError

RAW: Final = "usage.raw"
BACKFILL: Final = "usage.backfill"
PRICED: Final = "usage.priced"
REJECTED: Final = "usage.rejected"
CATALOG: Final = "meter.catalog"
AGGREGATES: Final = "usage.aggregates"
ALERTS: Final = "usage.alerts"
AGGREGATOR_STATE: Final = "meterstream-aggregator-state-changelog"
"""The name that Faust gives the changelog of the aggregator's table."""

EVENT_BYTES_MAX: Final = 1_000_000
"""Of a raw record's value. The rest up to the source topics' `max.message.bytes` is left to its key, its headers,
and what Kafka puts around them."""


class Topic(BaseModel):
    """One topic. `config` holds broker settings by their Kafka names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: Literal["source", "priced", "rejected", "catalog", "aggregates", "alerts", "state"]
    generation: int = Field(ge=1)
    source_id: int | None = Field(default=None, ge=1, le=32767)
    retired_source_ids: tuple[int, ...] = ()
    """Of generations that are no longer read, newest last. Their rows stay where they are."""
    partitions: int = Field(ge=1)
    key: str
    value: str
    config: dict[str, str | int]

    @model_validator(mode="after")
    def _sources_are_numbered(self) -> Topic:
        if (self.role == "source") != (self.source_id is not None):
            raise ValueError(f"{self.name}: a source topic has a source_id, and only a source topic")
        if self.retired_source_ids and (self.role != "source" or self.source_id in self.retired_source_ids):
            raise ValueError(
                f"{self.name}: only a source topic has retired source ids, and its source_id is none of them"
            )
        return self


@cache
def manifest() -> dict[str, Topic]:
    """name -> Topic, in the manifest's order. Raises pydantic.ValidationError on a wrong manifest."""
    text = files("meterstream.schema").joinpath("topics.yaml").read_text("utf-8")
    entries = yaml.safe_load(text)["topics"]
    return {name: Topic(name=name, **entry) for name, entry in entries.items()}


def source_ids() -> dict[str, int]:
    """topic name -> source_id, for every source topic."""
    return {name: topic.source_id for name, topic in manifest().items() if topic.source_id is not None}


@cache
def _priced_partitions() -> int:
    return partitions_of(PRICED)


def partition_of(tenant: str) -> int:
    """Of `usage.priced` and `usage.aggregates`: crc32 (IEEE) of the tenant's UTF-8 name modulo the partition count."""
    return crc32(tenant.encode()) % _priced_partitions()


def retired_source_ids() -> dict[int, str]:
    """retired source_id -> topic name. A sink still takes what it has not stored of them."""
    return {source_id: name for name, topic in manifest().items() for source_id in topic.retired_source_ids}


def source_names() -> dict[int, str]:
    """source_id -> topic name, retired ones included."""
    return {source_id: name for name, source_id in source_ids().items()} | retired_source_ids()


def partitions_of(topic: str) -> int:
    """Partition count of the topic's current generation. Raises KeyError."""
    return manifest()[topic].partitions


def check_partitions(actual: Mapping[str, int | None]) -> None:
    """Compares topic -> partition count (None: missing) with the manifest. Raises UsageError with every difference;
    Unreachable where topics are only missing, since one that was just made may not be known to every broker yet.

    A source topic may have more partitions: nothing counts on how many there are. All others must have as many as the
    manifest says: where a tenant is, and what has been covered, depends on it.
    """
    problems = {topic: problem for topic, there in actual.items() if (problem := _problem(manifest()[topic], there))}
    if problems:
        error = Unreachable if all(actual[topic] is None for topic in problems) else UsageError
        raise error("the topics are not as the manifest says:" + "".join(f"\n  - {line}" for line in problems.values()))


def _problem(topic: Topic, there: int | None) -> str | None:
    if there is None:
        return f"{topic.name} is missing, or hidden from this login: `meterstream topics apply` makes it"
    if there == topic.partitions or (topic.role == "source" and there > topic.partitions):
        return None
    return (
        f"{topic.name} has {there} partitions, the manifest says {topic.partitions}; the count of a generation is "
        "fixed: change the manifest back, or add the next generation and drain this one"
    )
