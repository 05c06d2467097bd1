"""What each part's Kafka login may do (`schema/access.yaml`), as grants and as commands for an administrator.

Pure but for reading the file. Applying them is the administrator's: whoever may grant may do everything.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Final, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict

from meterstream.schema.errors import UsageError

PREFIX: Final = "User:meterstream-"
ANY: Final = "*"

Operation = Literal["read", "write", "create", "describe", "describe_configs", "alter_configs"]


class Part(BaseModel):
    """What one login needs: name of a topic or group -> operations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str
    topics: dict[str, tuple[Operation, ...]]
    groups: dict[str, tuple[Operation, ...]] = {}


class Grant(NamedTuple):
    """One right of one part. `is_prefix`: for every name that begins so."""

    part: str
    resource: Literal["topic", "group"]
    name: str
    is_prefix: bool
    operation: Operation


@cache
def parts() -> dict[str, Part]:
    """part -> what it needs, in the file's order."""
    text = files("meterstream.schema").joinpath("access.yaml").read_text("utf-8")
    return {name: Part(**entry) for name, entry in yaml.safe_load(text).items()}


def grants(part: str) -> Iterator[Grant]:
    """Raises UsageError for a part that there is not."""
    needs = parts().get(part)
    if needs is None:
        raise UsageError(f"there is no part {part}; there are: {', '.join(parts())}")
    resources: tuple[tuple[Literal["topic", "group"], Mapping[str, tuple[Operation, ...]]], ...] = (
        ("topic", needs.topics),
        ("group", needs.groups),
    )
    for resource, named in resources:
        for name, operations in named.items():
            for operation in operations:
                yield Grant(part, resource, name.removesuffix(ANY), name.endswith(ANY), operation)


def command(grant: Grant, principal: str) -> str:
    """A line for a shell, without the servers' address. The principal is written as the broker has it."""
    words = [
        *("kafka-acls.sh", "--add", "--allow-principal", principal),
        *("--operation", "".join(word.capitalize() for word in grant.operation.split("_"))),
        *(f"--{grant.resource}", grant.name),
    ]
    return shlex.join([*words, "--resource-pattern-type", "prefixed"] if grant.is_prefix else words)
