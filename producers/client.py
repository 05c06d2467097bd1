"""The clients with which a service records usage: one call, never slow, never in the way.

A record is checked, gets its id and is kept before the call returns; a task in one event loop takes it to the broker.
With a spool folder, what was recorded outlives the process, kill -9 included.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack

from meterstream.producers.arguments import counted, counted_in_loop, refuse
from meterstream.producers.background import CLOSE_S, LET_GO_S, Background
from meterstream.producers.made_event import MadeEvent, UsageFields
from meterstream.producers.options import Options, choose
from meterstream.producers.outbox import Outbox, Stats
from meterstream.producers.sender import Sender
from meterstream.producers.stream import Stream
from meterstream.producers.vendor_answer import model_of, usage_of
from meterstream.schema.errors import EventRejected

RESPONSE_OPERATION: Final = "call"

_Parameters = ParamSpec("_Parameters")
_AnyClient = TypeVar("_AnyClient", bound="_Client")
_clients: weakref.WeakSet[_Client] = weakref.WeakSet()


def _stream_anyway(
    method: Callable[Concatenate[_AnyClient, _Parameters], Stream],
) -> Callable[Concatenate[_AnyClient, _Parameters], Stream]:
    """With arguments that are none: a stream that is over, whose block runs."""

    @wraps(method)
    def call(self: _AnyClient, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> Stream:
        try:
            return method(self, *args, **kwargs)
        except TypeError as error:
            refuse(self._outbox, error)
            return Stream(self._outbox, "", "", None, {}, is_over=True)

    return call


class _Client:
    """What both clients are."""

    def __init__(self, source: str, options: Options) -> None:
        self._chosen = choose(source, options)
        self._outbox = Outbox(source, self._chosen.spool, self._chosen.bounds, self._chosen.on_error)
        self._background = Background(self._outbox, self._make_sender)
        _clients.add(self)

    def _stream(self, tenant: str, provider: str, event_id: str | None, fields: UsageFields) -> Stream:
        self._background.start()
        return Stream(self._outbox, tenant, provider, event_id, fields)

    def _make_sender(self, loop: asyncio.AbstractEventLoop) -> Sender:
        chosen = self._chosen
        return Sender(loop, self._outbox, chosen.connect, chosen.spool, chosen.bounds, chosen.stream_max_s)

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
        made = {"operation": RESPONSE_OPERATION, **fields, "vendor_usage": body}
        if made.get("usage") is not None and not made.get("model"):  # the rater reads no body beside it
            made["model"] = model_of(body) or None
        return self._outbox.make(tenant, provider, made, event_id, time)

    def _may_wait(self) -> bool:
        """For room; not in `on_error`, which runs in the sender: to wait for oneself would be for ever."""
        return self._chosen.is_blocking and not self._outbox.is_closed and not self._background.is_here

    def _flushed(self) -> Callable[[], bool]:
        self._background.start()
        buffer = self._outbox.buffer
        target = buffer.appended
        return lambda: buffer.confirmed >= target

    def _after_fork_in_child(self) -> None:
        self._outbox.buffer.forget()
        self._outbox.renew()
        self._background.after_fork_in_child()


class AsyncMeterClient(_Client):
    """For a service with an event loop. Nothing blocks it; the sender has a thread and a loop of its own.

    `source` names the service. Raises UsageError where no broker is given, TypeError and ValueError for options that
    cannot be. Any thread and any loop may use it, one after another or at once: a client of a module outlives each
    `asyncio.run`. The sender starts with the first record, and in a forked child again, with what is recorded in it.
    `await close()` at the end, or `async with`; what waits when the interpreter ends is sent then, for at most ten
    seconds.
    """

    def __init__(self, source: str, **options: Unpack[Options]) -> None:
        super().__init__(source, options)

    async def __aenter__(self) -> Self:
        self._background.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @counted_in_loop
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

    @counted_in_loop
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
        `record` otherwise; `operation` is `call` where it is not given, and quantities of your own in `usage` count
        instead of the answer's.
        """
        event = self._make_of(provider, response, tenant, fields, id, time)
        return None if event is None else await self._keep(event)

    @_stream_anyway
    def stream(self, *, tenant: str, provider: str, id: str | None = None, **fields: Unpack[UsageFields]) -> Stream:
        """One call whose answer comes in pieces. `usage` is the estimate: what is charged if the stream never ends."""
        return self._stream(tenant, provider, id, fields)

    async def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until everything that was recorded before is confirmed; False when it is not: that took longer than
        allowed, the client was closed without, or it is `on_error` that asks, which the sender cannot go on without."""
        flushed = self._flushed()
        if not self._background.is_here:
            await self._outbox.progress.wait_in_loop(lambda: flushed() or self._outbox.has_ended, timeout_s)
        return flushed()

    async def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Sends what waits and ends; True when all of it is confirmed.

        After `timeout_s` it ends without: what is in the spool is sent by the next process with the same folder, what
        is in memory is lost, and the log says how much. A second call changes nothing. Raises nothing.
        """
        self._background.finish(timeout_s)
        if not self._background.is_here:
            await self._outbox.progress.wait_in_loop(self._background.has_ended, timeout_s + LET_GO_S)
        return not self._outbox.buffer.waiting

    def stats(self) -> Stats:
        """Counts as of now. Any thread."""
        return self._outbox.stats()

    async def _keep(self, event: MadeEvent) -> str | None:
        if self._outbox.put(event):
            return event.id
        if self._may_wait():
            try:
                if await self._outbox.progress.wait_in_loop(lambda: self._outbox.put(event), self._chosen.block_s):
                    return event.id
            except asyncio.CancelledError:
                self._outbox.count_dropped()
                raise
        self._outbox.drop()
        return None


class MeterClient(_Client):
    """For a service without an event loop, from any of its threads.

    Parameters and methods are those of AsyncMeterClient, without `await`: where those wait, these block.
    """

    def __init__(self, source: str, **options: Unpack[Options]) -> None:
        super().__init__(source, options)

    def __enter__(self) -> Self:
        self._background.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @counted
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
        event = self._outbox.make(tenant, provider, fields, id, time)
        return None if event is None else self._keep(event)

    @counted
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
        event = self._make_of(provider, response, tenant, fields, id, time)
        return None if event is None else self._keep(event)

    @_stream_anyway
    def stream(self, *, tenant: str, provider: str, id: str | None = None, **fields: Unpack[UsageFields]) -> Stream:
        """As AsyncMeterClient.stream."""
        return self._stream(tenant, provider, id, fields)

    def flush(self, timeout_s: float | None = None) -> bool:
        """As AsyncMeterClient.flush. Blocks."""
        flushed = self._flushed()
        if not self._background.is_here:
            self._outbox.progress.wait(lambda: flushed() or self._outbox.has_ended, timeout_s)
        return flushed()

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """As AsyncMeterClient.close. Blocks."""
        self._background.close(timeout_s)
        return not self._outbox.buffer.waiting

    def stats(self) -> Stats:
        """As AsyncMeterClient.stats."""
        return self._outbox.stats()

    def _keep(self, event: MadeEvent) -> str | None:
        if self._outbox.put(event):
            return event.id
        if self._may_wait() and self._outbox.progress.wait(lambda: self._outbox.put(event), self._chosen.block_s):
            return event.id
        self._outbox.drop()
        return None


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
