"""One call whose answer comes in pieces: its final usage is charged, or else its estimate, under one id. Never both.

The estimate is kept, on disk where there is a spool, and nothing of it is sent while the stream lives. Whoever knows
last decides: `finish` replaces it; a block that is left without, `stream_max_s`, the end of the client and the death of
the process send it. See docs/adr/0005.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, Unpack

from meterstream.producers.arguments import counted
from meterstream.producers.made_event import MadeEvent, UsageFields
from meterstream.producers.outbox import Outbox
from meterstream.producers.segment import Kind
from meterstream.producers.vendor_answer import has_counts, model_of, usage_of
from meterstream.schema.errors import EventRejected
from meterstream.schema.ids import uuid7

KEEP_EVERY_S: Final = 1.0
"""The estimate that is kept may be so old: a stream tells of each piece, and not each needs a place on disk."""
NO_END: Final = "no final usage: the estimate stands"
_CANCELLED: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)


class Stream:
    """Use as `with client.stream(...) as stream`. One thread at a time; nothing waits, nothing is raised unless asked.

    Leaving the block without `finish` sends the estimate: `cancelled`, or `error` with the exception's name.
    """

    def __init__(
        self,
        outbox: Outbox,
        tenant: str,
        provider: str,
        event_id: str | None,
        fields: UsageFields,
        *,
        is_over: bool = False,
    ) -> None:
        self.id = str(event_id) if event_id is not None else uuid7()
        """Of the event that will be sent."""
        self.operation_id = fields.get("operation_id") or self.id
        """Give it to the retries and fallbacks of this call."""
        self._outbox = outbox
        self._tenant = tenant
        self._provider = provider
        self._fields: dict[str, Any] = {**fields, "operation_id": self.operation_id}
        self._is_kept = False
        self._is_over = is_over
        self._keep_at = 0.0
        if not is_over:
            self._keep()

    @counted
    def update(self, **fields: Unpack[UsageFields]) -> None:
        """Something is known better now: these fields of the estimate and of the event replace earlier ones."""
        if self._is_over:
            return
        self._fields.update(fields)
        if time.monotonic() >= self._keep_at:
            self._keep()

    @counted
    def finish(self, **fields: Unpack[UsageFields]) -> str | None:
        """The stream is over, and this is its usage. Returns the event's id; None when it was refused or came too late.

        Where it is refused the estimate is sent. A second call does nothing.
        """
        return self._end({**self._fields, **fields})

    @counted
    def finish_response(self, response: object, **fields: Unpack[UsageFields]) -> str | None:
        """As `finish`, with what the vendor said last: see `record_response`. Where that has no usage the estimate is
        sent, with the model that answered, and says that it is one."""
        try:
            body = usage_of(response)
        except Exception as error:  # an SDK's object may do anything when it is asked for its content
            self._outbox.refuse(EventRejected("invalid_field", f"the response: {type(error).__name__}: {error}"))
            return self.cancel()
        estimate = self._fields.get("usage")
        if fields.get("usage") is not None or (estimate and not has_counts(body)):
            # The rater reads no body beside `usage`, nor can it read this one: its model is taken here.
            answered = {"model": model_of(body) or self._fields.get("model")}
            is_estimate = {} if fields.get("usage") is not None else {"estimated": True, "usage": estimate}
            return self._end({**self._fields, **answered, **fields, **is_estimate, "vendor_usage": body})
        without_estimate = {name: value for name, value in self._fields.items() if name != "usage"}
        return self._end({**without_estimate, **fields, "vendor_usage": body})

    @counted
    def cancel(self, **fields: Unpack[UsageFields]) -> str | None:
        """The final usage will never come: the estimate is sent, and says that it is one."""
        return self._end(_estimate({**self._fields, **fields}), is_last_resort=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_over:
            return
        if error is None or isinstance(error, _CANCELLED):
            self.cancel()
        else:
            self.cancel(status="error", error=type(error).__name__)  # its text may hold what was asked

    def _keep(self) -> None:
        self._keep_at = time.monotonic() + KEEP_EVERY_S
        event = self._make(_estimate(self._fields))
        if event is None:
            return
        if not self._is_kept:
            # Without room now there may be some at the end: only that counts as dropped.
            self._is_kept = self._outbox.begin(event)
            return
        with suppress(KeyError):  # its time is over: `finish` will say so
            self._outbox.put(event, Kind.OPEN)

    def _end(self, fields: dict[str, Any], *, is_last_resort: bool = False) -> str | None:
        if self._is_over:
            return None
        event = self._make(fields)
        if event is None and not is_last_resort:
            return self.cancel()
        self._is_over = True
        return None if event is None else self._send(event)

    def _send(self, event: MadeEvent) -> str | None:
        try:
            if self._outbox.put(event, Kind.FINAL if self._is_kept else Kind.EVENT):
                return event.id
        except KeyError:
            self._outbox.late(event.id)
            return None
        self._outbox.drop()
        return None

    def _make(self, fields: dict[str, Any]) -> MadeEvent | None:
        return self._outbox.make(self._tenant, self._provider, fields, self.id, None)


def _estimate(fields: dict[str, Any]) -> dict[str, Any]:
    return {"status": "cancelled", "error": NO_END, **fields, "estimated": True}
