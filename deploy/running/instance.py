"""The name of a process in its consumer group, and the watch that only one process has it.

With a name (`group.instance.id`) a killed process gets its partitions back as soon as it runs again, and a restart
moves nobody else's. Without one the group waits for the session's end.

Two processes of one name would throw each other out for ever: a broker refuses the older one only by requests that
say the name, and the heartbeats of our clients do not. So each life of a name takes the next number from a register,
and stops when it finds a higher one there. The register is a committed offset, of a group that nobody joins:

    group      GROUP.NAME, such as meterstream-aggregator.0f9c-aggregator
    partition  usage.priced/0; the "offset" is the number of the newest life

What the members of the group itself say would not do: Faust refuses an assignment that was made for another life.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from meterstream.deploy.kafka import client_options
from meterstream.processors.tasks import run_beside
from meterstream.schema.errors import InstanceTaken
from meterstream.schema.settings import Settings
from meterstream.schema.stopping import stopped
from meterstream.schema.topics import PRICED

log = logging.getLogger(__name__)

WATCH_INTERVAL_S: Final = 2.0
_PLACE: Final = TopicPartition(PRICED, 0)

RoleMain = Callable[[dict[str, Any], dict[str, Any]], Coroutine[Any, Any, None]]


async def run_as_member(settings: Settings, group: str, main: RoleMain) -> None:
    """Runs `main(aiokafka's connection options, its consumer's membership options)`.

    Where `settings.instance` names this process, it runs beside the watch. Raises InstanceTaken, UsageError
    where the options do not fit together, and what `main` raises.
    """
    options = client_options(settings)
    if not settings.instance:
        await main(options, {})
        return
    membership = {"group_instance_id": settings.instance}
    await run_beside(main(options, membership), _watch(options, group, settings.instance))


async def _watch(options: dict[str, Any], group: str, instance: str) -> None:
    """For ever. Raises InstanceTaken."""
    mine: int | None = None
    while True:
        consumer = AIOKafkaConsumer(**options, group_id=f"{group}.{instance}", enable_auto_commit=False)
        try:
            await consumer.start()
            consumer.assign([_PLACE])
            if mine is None:
                mine = await _take(consumer)
            while True:
                newest = await consumer.committed(_PLACE)
                if newest is not None and newest > mine:
                    raise InstanceTaken(
                        f"a newer process runs as {instance} in the group {group}, and this one gives way: "
                        "METERSTREAM_INSTANCE must name one process. If a home folder was copied, remove "
                        "run/instance from the copy"
                    )
                await asyncio.sleep(WATCH_INTERVAL_S)
        except (KafkaError, OSError) as error:  # a broker that is away: nobody takes anything over
            log.debug("the register of %s is not known: %s", instance, error)
        finally:
            await stopped(consumer)
        await asyncio.sleep(WATCH_INTERVAL_S)


async def _take(consumer: AIOKafkaConsumer) -> int:
    """The number of this life: higher than any before, whatever the clocks say."""
    before: int | None = await consumer.committed(_PLACE)
    number = max(time.time_ns(), (before or 0) + 1)
    await consumer.commit({_PLACE: number})
    return number
