"""The name of a process in its consumer group, and the watch that only one process has it.

With a name (`group.instance.id`) a killed process gets its partitions back as soon as it runs again, and a restart
moves nobody else's. Without one the group waits for the session's end.

Two processes of one name would throw each other out for ever: a broker refuses the older one only by requests that
say the name, and the heartbeats of our client do not. So each process says in its subscription when it began; the
older one sees the newer in its place, and stops. (The client id would not do: the place keeps the first one's.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from meterstream.deploy.kafka import client_options
from meterstream.processors.tasks import run_beside
from meterstream.schema.errors import InstanceTaken
from meterstream.schema.settings import Settings

log = logging.getLogger(__name__)

WATCH_INTERVAL_S: Final = 2.0
_MEMBERS, _MEMBER_ID, _SUBSCRIPTION = 5, 0, 3
"""Places in the broker's answer: of the members in a group; of id and subscription in a member."""
_STAMP_BYTES: Final = 8

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
    began = time.time_ns()
    membership = {"group_instance_id": settings.instance, "partition_assignment_strategy": (_stamped(began),)}
    await run_beside(main(options, membership), _watch(options, group, settings.instance, began))


def _stamped(began: int) -> type[RoundRobinPartitionAssignor]:
    """The usual assignor, whose subscription also says when this process began."""

    class Stamped(RoundRobinPartitionAssignor):  # type: ignore[misc]
        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            return ConsumerProtocolMemberMetadata(cls.version, list(topics), began.to_bytes(_STAMP_BYTES, "big"))

    return Stamped


async def _watch(options: dict[str, Any], group: str, instance: str, mine: int) -> None:
    """For ever. Raises InstanceTaken."""
    is_member = False
    while True:
        admin = AIOKafkaAdminClient(**options)
        try:
            await admin.start()
            while True:
                began = await _holder(admin, group, instance)
                is_member = is_member or began == mine
                # Who has never been in the group may meet the name's last life there: it goes when we come.
                if is_member and began is not None and began > mine:
                    raise InstanceTaken(
                        f"a newer process runs as {instance} in the group {group}, and this one gives way: "
                        "METERSTREAM_INSTANCE must name one process. If a home folder was copied, remove "
                        "run/instance from the copy"
                    )
                await asyncio.sleep(WATCH_INTERVAL_S)
        except (KafkaError, OSError) as error:  # a broker that is away: nobody takes anything over
            log.debug("the members of the group are not known: %s", error)
        finally:
            await admin.close()
        await asyncio.sleep(WATCH_INTERVAL_S)


async def _holder(admin: AIOKafkaAdminClient, group: str, instance: str) -> int | None:
    """When the process began that has this place in the group; None while nobody has, or the group is moving."""
    for response in await admin.describe_consumer_groups([group]):
        for found in response.groups:
            for member in found[_MEMBERS]:
                # A broker makes the id of a named member of its name and a UUID.
                if member[_MEMBER_ID][:-37] == instance and member[_SUBSCRIPTION]:
                    stamp = ConsumerProtocolMemberMetadata.decode(member[_SUBSCRIPTION]).user_data
                    return int.from_bytes(stamp or b"", "big")
    return None
