"""What a service calls: makes an event, keeps it, wakes the sender. Any thread; never waits, raises only if asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from meterstream.producers.buffer import Bounds, Buffer
from meterstream.producers.complaints import Complaints, OnError
from meterstream.producers.made_event import MadeEvent, make_event
from meterstream.producers.progress import Progress
from meterstream.producers.segment import Kind
from meterstream.schema.errors import BufferFull, EventRejected, MeterstreamError, UsageError
from meterstream.schema.wire_event import AGE_MAX

AHEAD_MAX: Final = timedelta(minutes=30)
"""The rater takes five minutes, by the broker's clock."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one process since the client was made, or since the fork."""

    recorded: int
    """Taken: confirmed, or waiting."""
    confirmed: int
    waiting: int
    refused: int
    """Wrong arguments."""
    dropped: int
    """Good, but there was no room, or the client was closed."""
    recovered: int
    """Sent for processes that had died."""


class Outbox:
    """Events on their way from a service's threads to the sender."""

    def __init__(self, source: str, root: Path | None, bounds: Bounds, on_error: OnError) -> None:
        self.complaints = Complaints(on_error)
        self._source = source
        self._root = root
        self._bounds = bounds
        self.renew()

    def renew(self) -> None:
        """Empty, as after a fork: what was there belongs to another process, or to nobody."""
        self.buffer = Buffer(self._root, self._bounds, self._disk_failed)
        self.wake: Callable[[], None] = lambda: None
        """Called after each record."""
        self.is_closed = False
        """Takes nothing more."""
        self.has_ended = False
        """Closed, and the sender has ended."""
        self.progress = Progress()
        """Of what is confirmed, and of the end."""
        self.recovered = 0
        self._refused = 0
        self._dropped = 0
        self._counting = threading.Lock()

    def make(
        self, tenant: str, provider: str, fields: Mapping[str, Any], event_id: str | None, time: datetime | None
    ) -> MadeEvent | None:
        """None: refused."""
        try:
            if time is not None:
                _check_time(time)
            return make_event(self._source, tenant, provider, fields, event_id=event_id, time=time)
        except EventRejected as error:
            self.refuse(error)
        except Exception as error:  # whatever is wrong with the arguments or with us: the service goes on
            self.refuse(EventRejected("invalid_field", f"{type(error).__name__}: {error}"))
        return None

    def begin(self, event: MadeEvent) -> bool:
        """Keeps the estimate of a new stream. False: no room, or closed."""
        if not self.buffer.begin(event.id, event.key, event.value):
            return False
        self.wake()
        return True

    def put(self, event: MadeEvent, kind: Kind = Kind.EVENT) -> bool:
        """False: no room, or closed; nothing was counted. Raises KeyError as Buffer.append does, of an open stream."""
        if self.is_closed and kind is Kind.EVENT:
            return False
        stream_id = "" if kind is Kind.EVENT else event.id
        if not self.buffer.append(kind, event.key, event.value, stream_id):
            return False
        self.wake()
        return True

    def refuse(self, error: EventRejected) -> None:
        """Counts and answers wrong arguments."""
        with self._counting:
            self._refused += 1
        self.complaints.answer("an event was refused", error)

    def late(self, stream_id: str) -> None:
        """Counts and answers a final usage that came after its time."""
        with self._counting:
            self._refused += 1
        error = UsageError(f"the estimate of {stream_id} was sent before, after stream_max_s or by close(), and stays")
        self.complaints.answer("a stream's final usage came too late", error)

    def count_dropped(self) -> None:
        """Of an event whose caller is told otherwise."""
        with self._counting:
            self._dropped += 1

    def drop(self) -> None:
        """Counts and answers a good event that could not be kept."""
        self.count_dropped()
        error: MeterstreamError
        if self.is_closed:
            error = UsageError("the client is closed: record before close(), or make another client")
        else:
            error = BufferFull(
                f"{self.buffer.waiting:,} records wait for the broker and there is no room for more: the newest are "
                "dropped. Look at the broker, or give the client more room"
            )
        self.complaints.answer("an event was dropped", error)

    def stats(self) -> Stats:
        """As of now."""
        buffer = self.buffer
        return Stats(
            recorded=buffer.events,
            confirmed=buffer.events_confirmed,
            waiting=buffer.events - buffer.events_confirmed,
            refused=self._refused,
            dropped=self._dropped,
            recovered=self.recovered,
        )

    def _disk_failed(self, error: OSError) -> None:
        self.complaints.log(
            "the spool takes no more, what is recorded now does not outlive this process", error.strerror or error
        )


def _check_time(time: datetime) -> None:
    """By this machine's clock, which may be wrong: in doubt the rater decides."""
    away = time - datetime.now(UTC)
    if away < -AGE_MAX:
        raise EventRejected(
            "too_old", f"time is {time.isoformat()}, more than {AGE_MAX.days} days ago: send it to usage.backfill"
        )
    if away > AHEAD_MAX:
        raise EventRejected(
            "in_future", f"time is {time.isoformat()}, which is still to come: is a clock or zone wrong?"
        )
