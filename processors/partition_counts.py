"""How many partitions the topics really have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient


async def partition_counts(client_options: dict[str, Any], names: Iterable[str]) -> dict[str, int | None]:
    """topic -> how many partitions it has; None: there is no such topic. May block; raises aiokafka's errors."""
    admin = AIOKafkaAdminClient(**client_options)
    try:
        await admin.start()
        found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(list(names))}
    finally:
        await admin.close()
    return {name: found[name] or None for name in names}
