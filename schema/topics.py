"""The topic manifest `topics.yaml` as typed data."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Final, Literal
from zlib import crc32

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

RAW: Final = "usage.raw"
BACKFILL: Final = "usage.backfill"
PRICED: Final = "usage.priced"
REJECTED: Final = "usage.rejected"
CATALOG: Final = "meter.catalog"
AGGREGATES: Final = "usage.aggregates"
ALERTS: Final = "usage.alerts"
AGGREGATOR_STATE: Final = "meterstream-aggregator-state-changelog"
"""The name that Faust gives the changelog of the aggregator's table."""

AGE_MAX: Final = timedelta(days=35)
"""What is older when it arrives is rejected from `usage.raw`; `usage.backfill` takes it."""
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
    partitions: int = Field(ge=1)
    key: str
    value: str
    config: dict[str, str | int]

    @model_validator(mode="after")
    def _sources_are_numbered(self) -> Topic:
        if (self.role == "source") != (self.source_id is not None):
            raise ValueError(f"{self.name}: a source topic has a source_id, and only a source topic")
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


def partitions_of(topic: str) -> int:
    """Partition count of the topic's current generation. Raises KeyError."""
    return manifest()[topic].partitions
