"""The clients with which a service records usage: one call, never slow, never in the way.

A record is checked, gets its id and is kept before the call returns; a task in one event loop takes it to the broker.
With a spool folder, what was recorded outlives the process, kill -9 included.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import socket
import threading
import weakref
from collections.abc import Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypedDict, TypeVar, Unpack

from meterstream.producers.buffer import Bounds
from meterstream.producers.complaints import OnError
from meterstream.producers.made_event import MadeEvent, UsageFields
from meterstream.producers.outbox import Outbox, Stats
from meterstream.producers.sender import Sender
from meterstream.producers.stream import Stream
from meterstream.producers.transport import Connect
from meterstream.producers.transport.memory import MemoryTransport
from meterstream.producers.vendor_answer import usage_of
from meterstream.schema.errors import EventRejected, UsageError

BOOTSTRAP_VARIABLE: Final = "METERSTREAM_KAFKA_BOOTSTRAP"
CLOSE_S: Final = 10.0
BLOCK_S: Final = 5.0
STREAM_MAX_S: Final = 3600.0
RESPONSE_OPERATION: Final = "call"

_log = logging.getLogger("meterstream.producers")
_Result = TypeVar("_Result")
_clients: weakref.WeakSet[AsyncMeterClient | MeterClient] = weakref.WeakSet()


class Options(TypedDict, total=False):
    """Of both clients."""

    bootstrap_servers: str
    """Of Kafka; without it, and without a transport, METERSTREAM_KAFKA_BOOTSTRAP says it."""
    client_options: Mapping[str, Any]
    """aiokafka's other connection arguments: security_protocol, ssl_context, sasl_mechanism, ..."""
    transport: MemoryTransport | Connect
    """Instead of Kafka: a MemoryTransport, or a function that makes a connection."""
    spool: str | os.PathLike[str]
    """A folder on a local disk, shared by the processes of a service, for one broker. None: memory alone."""
    bounds: Bounds
    """How much may wait for the broker, on disk and in memory."""
    when_full: Literal["drop", "block"]
    """`drop` (default): a record without room is dropped and counted. `block`: it waits for room first."""
    block_s: float
    """How long `block` waits before it drops. 5 seconds without it."""
    stream_max_s: float
    """After so long without an end a stream's estimate is sent. An hour without it."""
    on_error: OnError
    """`log` (default), `raise`, or a function that is told each error."""


class AsyncMeterClient:
    """For a service with an event loop. The first record starts the sender in the loop that runs then.

    `source` names the service. Raises UsageError where no broker is given. Used by one loop; forked children begin
    anew, with what is recorded in them. `await close()` at the end, or `async with`.
    """

    def __init__(self, source: str, **options: Unpack[Options]) -> None:
        spool = options.get("spool")
        self._root = None if spool is None else Path(spool)
        self._bounds = options.get("bounds", Bounds())
        if min(self._bounds.spool_bytes_max, self._bounds.memory_bytes_max) < 2 * self._bounds.segment_bytes:
            raise UsageError(f"{self._bounds}: give room for two segments at least, on disk and in memory")
        self._connect = _connect(options)
        self._is_blocking = options.get("when_full", "drop") == "block"
        self._block_s = options.get("block_s", BLOCK_S)
        self._stream_max_s = options.get("stream_max_s", STREAM_MAX_S)
        self._outbox = Outbox(source, self._root, self._bounds, options.get("on_error", "log"))
        self._sender: Sender | None = None
        self._task: asyncio.Task[None] | None = None
        _clients.add(self)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def record(
        self,
        *,
        tenant: str,
        provider: str,
        id: str | None = None,
        time: datetime | None = None,
        **fields: Unpack[UsageFields],
    ) -> str | None:
        """One call that costs money. Returns its id, or None when it was refused or dropped.

        `id`: give your own only where a retry of yours records the same call again; it counts once. `time`: when the
        call ended, aware; now without it. Waits only with `when_full="block"`, and raises only with `on_error="raise"`
        (EventRejected, BufferFull, UsageError once it is closed).
        """
        event = self._outbox.make(tenant, provider, fields, id, time)
        return None if event is None else await self._keep(event)

    async def record_response(
        self,
        provider: str,
        response: object,
        *,
        tenant: str,
        id: str | None = None,
        time: datetime | None = None,
        **fields: Unpack[UsageFields],
    ) -> str | None:
        """A vendor's whole answer: a dict, or an SDK's object with `model_dump()` or `to_dict()`.

        Model, tier and counts are taken out of it; nothing of what was asked or answered leaves the process. As
        `record` otherwise; `operation` is `call` where it is not given.
        """
        event = self._make_of(provider, response, tenant, fields, id, time)
        return None if event is None else await self._keep(event)

    def stream(self, *, tenant: str, provider: str, id: str | None = None, **fields: Unpack[UsageFields]) -> Stream:
        """One call whose answer comes in pieces. `usage` is the estimate: what is charged if the stream never ends."""
        self._start()
        return Stream(self._outbox, tenant, provider, id, fields)

    async def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until everything that was recorded before is confirmed; False when that takes longer than allowed."""
        target = self._outbox.buffer.appended
        sender = self._start()
        try:
            async with asyncio.timeout(timeout_s):
                while self._outbox.buffer.confirmed < target:
                    await sender.progressed()
        except TimeoutError:
            return False
        return True

    async def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Sends what waits and ends; True when all of it is confirmed.

        After `timeout_s` it ends without: what is in the spool is sent by the next process with the same folder, what
        is in memory is lost, and the log says how much. A second call does nothing.
        """
        if self._outbox.is_closed:
            return not self._outbox.buffer.waiting
        self._outbox.is_closed = True
        self._outbox.buffer.end_streams(float("inf"))
        if self._outbox.buffer.waiting:
            self._start()
        if self._task is not None and self._sender is not None:
            self._sender.finish()
            await asyncio.wait([self._task], timeout=timeout_s)
            if not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task])
        return self._let_go()

    def stats(self) -> Stats:
        """Counts as of now. Any thread."""
        return self._outbox.stats()

    def _start(self) -> Sender:
        if self._sender is None:
            sender = Sender(self._outbox, self._connect, self._root, self._bounds, self._stream_max_s)
            self._task = asyncio.get_running_loop().create_task(sender.run(), name="meterstream-sender")
            self._outbox.wake = sender.wake
            self._sender = sender
        return self._sender

    def _make_of(
        self,
        provider: str,
        response: object,
        tenant: str,
        fields: Mapping[str, Any],
        event_id: str | None,
        time: datetime | None,
    ) -> MadeEvent | None:
        try:
            body = usage_of(response)
        except EventRejected as error:
            self._outbox.refuse(error)
            return None
        except Exception as error:  # an SDK's object may do anything when it is asked for its content
            self._outbox.refuse(EventRejected("invalid_field", f"the response: {type(error).__name__}: {error}"))
            return None
        return self._outbox.make(
            tenant, provider, {"operation": RESPONSE_OPERATION, **fields, "vendor_usage": body}, event_id, time
        )

    async def _keep(self, event: MadeEvent) -> str | None:
        sender = self._start()
        if self._take(event):
            return event.id
        if self._is_blocking and not self._outbox.is_closed:
            try:
                async with asyncio.timeout(self._block_s):
                    while not self._take(event):
                        await sender.progressed()
                return event.id
            except TimeoutError:
                pass  # dropped below
            except asyncio.CancelledError:
                self._outbox.count_dropped()
                raise
        self._outbox.drop()
        return None

    def _take(self, event: MadeEvent) -> bool:
        return self._outbox.put(event)

    def _let_go(self) -> bool:
        waiting = self._outbox.buffer.waiting
        if waiting:
            where = (
                "they are in the spool, the next process sends them"
                if self._outbox.buffer.outlives_process
                else "what was not in a spool is lost"
            )
            _log.warning("closed with %d records that the broker has not confirmed: %s", waiting, where)
        try:
            self._outbox.buffer.close()
        except OSError as error:
            self._outbox.complaints.log("the spool's folder stays", error)
        return not waiting

    def _after_fork_in_child(self) -> None:
        self._outbox.buffer.forget()
        if self._sender is not None:
            self._sender.forget()
        self._outbox.renew()
        self._sender = None
        self._task = None


class MeterClient:
    """For a service without an event loop, from any of its threads: a thread with a loop around AsyncMeterClient.

    Parameters and methods are those of AsyncMeterClient, without `await`. The thread starts with the first record, and
    in a forked child again. What waits when the interpreter ends is sent then, for at most ten seconds.
    """

    def __init__(self, source: str, **options: Unpack[Options]) -> None:
        self._client = AsyncMeterClient(source, **options)
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        _clients.add(self)

    def __enter__(self) -> Self:
        self._wait(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def record(
        self,
        *,
        tenant: str,
        provider: str,
        id: str | None = None,
        time: datetime | None = None,
        **fields: Unpack[UsageFields],
    ) -> str | None:
        """As AsyncMeterClient.record."""
        event = self._client._outbox.make(tenant, provider, fields, id, time)
        return None if event is None else self._keep(event)

    def record_response(
        self,
        provider: str,
        response: object,
        *,
        tenant: str,
        id: str | None = None,
        time: datetime | None = None,
        **fields: Unpack[UsageFields],
    ) -> str | None:
        """As AsyncMeterClient.record_response."""
        event = self._client._make_of(provider, response, tenant, fields, id, time)
        return None if event is None else self._keep(event)

    def stream(self, *, tenant: str, provider: str, id: str | None = None, **fields: Unpack[UsageFields]) -> Stream:
        """As AsyncMeterClient.stream."""
        if self._client._sender is None:
            self._wait(self._client.__aenter__())
        return Stream(self._client._outbox, tenant, provider, id, fields)

    def flush(self, timeout_s: float | None = None) -> bool:
        """As AsyncMeterClient.flush. Blocks."""
        return self._wait(self._client.flush(timeout_s))

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """As AsyncMeterClient.close. Blocks."""
        atexit.unregister(self._at_exit)
        if self._client._outbox.is_closed:
            return not self._client._outbox.buffer.waiting
        is_done = self._wait(self._client.close(timeout_s))
        with self._starting:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
        return is_done

    def stats(self) -> Stats:
        """As AsyncMeterClient.stats."""
        return self._client.stats()

    def _keep(self, event: MadeEvent) -> str | None:
        loop = self._loop or self._start()
        if self._client._sender is not None and self._client._take(event):
            return event.id
        if self._thread is threading.current_thread():
            self._client._outbox.drop()  # `on_error` has recorded something: to wait for oneself would be for ever
            return None
        return asyncio.run_coroutine_threadsafe(self._client._keep(event), loop).result()

    def _wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop or self._start()).result()

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                loop = _Loop()
                self._thread = threading.Thread(target=_run, args=(loop,), name="meterstream", daemon=True)
                self._thread.start()
                self._loop = loop
                atexit.register(self._at_exit)
        return self._loop

    def _at_exit(self) -> None:
        if self._loop is not None:  # a forked child that has recorded nothing has nothing to end
            self.close()

    def _after_fork_in_child(self) -> None:
        self._starting = threading.Lock()
        self._loop = None
        self._thread = None


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in its own thread: asyncio's threads refuse work when the interpreter ends, and then there may
    still be something to send."""

    async def getaddrinfo(self, host: Any, port: Any, **arguments: Any) -> Any:
        return socket.getaddrinfo(host, port, **arguments)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _connect(options: Options) -> Connect:
    transport = options.get("transport")
    if isinstance(transport, MemoryTransport):
        memory = transport
        return lambda: memory
    if transport is not None:
        return transport
    servers = options.get("bootstrap_servers") or os.environ.get(BOOTSTRAP_VARIABLE)
    if not servers:
        raise UsageError(
            f"where is Kafka? Give bootstrap_servers or set {BOOTSTRAP_VARIABLE}; in tests, transport=MemoryTransport()"
        )
    try:
        from meterstream.producers.transport.kafka import KafkaTransport
    except ImportError as error:
        raise UsageError('Kafka needs a client library: pip install "meterstream[kafka]"') from error
    client_options = {"bootstrap_servers": servers, **options.get("client_options", {})}
    return lambda: KafkaTransport(client_options)


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
