"""Faust around the fold: group, delivery, table and changelog. The only module that imports Faust.

Stock Faust, nothing overridden. What it is trusted with is little, for reasons that were measured: it says
which partitions are ours, brings their records (perhaps again, perhaps with holes) and writes the state's
changelog. Whether a record is news is decided by its offset alone. It has no table: at every assignment it would read
all of the state into it, for nobody, before it delivers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import faust

from meterstream.schema import topics

APP_ID: Final = "meterstream-aggregator"
SESSION_S: Final = 20.0
REQUEST_S: Final = 15.0

OnEvent = Callable[[Any], Awaitable[None]]
"""Is given a Faust event: `event.message` has partition, offset, headers; `event.value` is bytes."""
OnAssigned = Callable[[Collection[int]], None]


class Host:
    """One Faust app. `on_event` and `on_assigned` run on the caller's loop; no error may leave them."""

    def __init__(
        self,
        client_options: Mapping[str, Any],
        *,
        instance: str,
        folder: Path,
        on_event: OnEvent,
        on_assigned: OnAssigned,
    ) -> None:
        """`client_options` are aiokafka's; `instance`: the process's name in its group, '' for none."""
        self._app = faust.App(
            APP_ID,
            broker=[f"kafka://{server}" for server in client_options["bootstrap_servers"].split(",")],
            broker_credentials=_credentials(client_options),
            store="memory://",
            key_serializer="raw",
            value_serializer="raw",
            datadir=str(folder),
            processing_guarantee="at_least_once",
            topic_allow_declare=False,
            topic_disable_leader=True,
            topic_partitions=topics.partitions_of(topics.PRICED),
            table_standby_replicas=0,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=4 * 1024 * 1024,
            consumer_group_instance_id=instance or None,
            broker_commit_interval=1.0,
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=3.0,
            broker_request_timeout=SESSION_S + 5.0,
            broker_rebalance_timeout=60.0,
            broker_max_poll_interval=300.0,
            stream_buffer_maxsize=256,
            stream_wait_empty=True,
            stream_recovery_delay=0.0,
            producer_acks=-1,
            producer_compression_type="zstd",
            producer_linger=0.005,
            producer_max_batch_size=262_144,
            producer_max_request_size=8 * 1024 * 1024,
            producer_request_timeout=REQUEST_S,
            worker_redirect_stdouts=False,
            web_enabled=False,
        )
        priced = self._app.topic(topics.PRICED, key_type=bytes, value_type=bytes)
        self._state = self._app.topic(topics.AGGREGATOR_STATE, key_type=bytes, value_type=bytes)
        self._on_event = on_event
        self._on_assigned = on_assigned
        self._is_assigned = False
        self._app.agent(priced, name="aggregator", concurrency=1)(self._run)
        self._app.on_partitions_assigned.connect(self._assigned, weak=False)
        self._app.on_partitions_revoked.connect(self._revoked, weak=False)

    async def start(self) -> None:
        """Joins the group; returns when that is done."""
        await self._app.start()

    async def stop(self) -> None:
        """Commits what is acknowledged and leaves."""
        await self._app.stop()

    @property
    def is_assigned(self) -> bool:
        """True when the group has said which partitions are ours; they are delivered once this is settled."""
        return self._is_assigned

    @property
    def is_settled(self) -> bool:
        """True when the assignment stands and Faust begins to deliver."""
        return not self._app.rebalancing and self._app.tables.recovery.completed.is_set()

    @property
    def generation(self) -> int:
        """Of the group; changes with every rebalance."""
        number: int = self._app.consumer_generation_id
        return number

    @property
    def crash(self) -> BaseException | None:
        """What ended the app, if anything did."""
        if self._app.crash_reason is not None:
            reason: BaseException = self._app.crash_reason
            return reason
        return RuntimeError("Faust stopped by itself") if self._app.should_stop else None

    def store(self, partition: int, key: bytes, value: bytes | None) -> Awaitable[Any]:
        """Writes a record of the state; await the result for the broker's acknowledgement."""
        sent: Awaitable[Any] = self._state.send_soon(partition=partition, key=key, value=value)
        return sent

    async def _run(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._on_event(event)

    async def _assigned(self, _app: Any, assigned: Collection[Any], **_: Any) -> None:
        self._on_assigned({tp.partition for tp in assigned if tp.topic == topics.PRICED})
        self._is_assigned = True

    async def _revoked(self, _app: Any, _revoked: Collection[Any], **_: Any) -> None:
        self._is_assigned = False


def acknowledge(events: Sequence[Any]) -> None:
    """In the order in which they came."""
    for event in events:
        event.ack()


def headers_of(event: Any) -> Iterable[tuple[str, bytes]]:
    """Faust gives them as a map or as pairs."""
    headers = event.message.headers or ()
    return headers.items() if isinstance(headers, Mapping) else headers


def _credentials(options: Mapping[str, Any]) -> Any:
    protocol = options.get("security_protocol", "PLAINTEXT")
    context = options.get("ssl_context")
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=options["sasl_mechanism"],
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if protocol == "SSL" else None
