"""What was recorded and not confirmed yet: segments in order, bounded, on disk where there is a folder for them.

Many threads append, one sender reads and confirms. A window is read, sent and confirmed before the next one, so what
is confirmed is always a prefix, and what is left is sent again in the order in which it was recorded.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from meterstream.producers.segment import OVERHEAD, START, Frame, Kind, Segment
from meterstream.producers.spool import Spool
from meterstream.schema import failpoints

DISK_RETRY_S: Final = 5.0
"""So long after a disk refused a segment, memory is used without asking it again."""
OPEN_SHARE_MAX: Final = 0.25
"""Of the room, for estimates of streams: what begins beyond is not kept until it ends."""


FILE_BYTES: Final = 64 * 1024
"""Of a process's first file, so that one that dies soon leaves little; each next one is `FILE_GROWTH` times as long."""
FILE_GROWTH: Final = 4


class Bounds(NamedTuple):
    """Bytes, of segments of `segment_bytes` each: at least two of them."""

    spool_bytes_max: int = 256 * 1024 * 1024
    """Of the spool's folder: of this process, of those that live beside it and of those that are dead."""
    memory_bytes_max: int = 32 * 1024 * 1024
    segment_bytes: int = 4 * 1024 * 1024


class Window(NamedTuple):
    """Some frames at the beginning of what is not confirmed."""

    frames: list[Frame]
    segment: Segment
    end: int


class _Open(NamedTuple):
    """A stream without its final frame."""

    frame: Frame
    segment: Segment
    since_s: float


class _EventId(msgspec.Struct):
    """As much of an event as is needed here."""

    id: str


_id_of = msgspec.json.Decoder(_EventId).decode


class Buffer:
    """`root`: where to make a spool folder; None: memory alone. The folder is made with the first record.

    `disk_failed` is told why a segment is in memory although there is a folder.
    """

    def __init__(self, root: Path | None, bounds: Bounds, disk_failed: Callable[[OSError], None]) -> None:
        self._root = root
        self._bounds = bounds
        self._disk_failed = disk_failed
        self._spool: Spool | None = None
        self._segments: list[Segment] = []
        self._open: dict[str, _Open] = {}
        self._open_bytes = 0
        self._bytes_max = bounds.memory_bytes_max if root is None else bounds.spool_bytes_max
        self._lock = threading.Lock()
        self._disk_retry_at = 0.0
        self._file_bytes = FILE_BYTES
        self._is_left_behind = False
        self._is_closed = False
        self.appended = 0
        """Frames so far, whatever became of them."""
        self.confirmed = 0
        """Of them, from the first on, those that need no sending any more."""
        self.events = 0
        """Of `appended`, what is an event to be sent; the rest are beginnings of streams."""
        self.events_confirmed = 0

    @classmethod
    def left_behind(cls, spool: Spool, bounds: Bounds) -> Buffer:
        """What another process has left: to be read and confirmed, nothing is added. Raises OSError.

        Streams without an end come last, as the estimates that they are: the process died before it knew better.
        """
        buffer = cls(None, bounds, lambda error: None)
        buffer._is_left_behind = True
        buffer._spool = spool
        buffer._segments = spool.segments()
        streams: dict[str, Frame] = {}
        for segment in buffer._segments:
            for frame, position in segment.read(START, segment.end):
                buffer.appended += position > segment.confirmed
                buffer.events += position > segment.confirmed and frame.kind is not Kind.OPEN
                if frame.kind is Kind.OPEN:
                    streams[_id_of(frame.value).id] = frame
                elif frame.kind is Kind.FINAL:
                    streams.pop(_id_of(frame.value).id, None)
        if streams:
            size = sum(len(frame.key) + len(frame.value) + OVERHEAD for frame in streams.values())
            estimates = Segment.in_memory(size)
            for frame in streams.values():
                estimates.append(Kind.FINAL, frame.key, frame.value)
            buffer.appended += len(streams)
            buffer.events += len(streams)
            buffer._segments.append(estimates)
        return buffer

    @property
    def waiting(self) -> int:
        """Frames that are not confirmed."""
        return self.appended - self.confirmed

    @property
    def torn_bytes(self) -> int:
        """Of files that were left behind: what is no whole frame."""
        return sum(segment.torn_bytes for segment in self._segments)

    @property
    def outlives_process(self) -> bool:
        """Whether everything that waits is on disk."""
        return all(segment.is_file or segment.confirmed == segment.end for segment in self._segments)

    def append(self, kind: Kind, key: bytes, value: bytes, stream_id: str = "") -> bool:
        """False: full, or closed. Any thread; does not wait.

        `stream_id`: of a stream that is open, the event's id. Raises KeyError where it is open no more: its estimate is
        on its way already.
        """
        with self._lock:
            if stream_id and stream_id not in self._open:
                raise KeyError(stream_id)
            if self._is_closed:
                return False
            segment = self._append(kind, key, value, is_reserved=kind is Kind.FINAL)
            if segment is None:
                return False
            if kind is Kind.OPEN:
                before = self._open[stream_id]
                self._open[stream_id] = _Open(Frame(kind, key, value), segment, before.since_s)
                self._open_bytes += len(value) - len(before.frame.value)
            elif kind is Kind.FINAL:
                self._end(stream_id)
        failpoints.hit("appended")
        return True

    def begin(self, stream_id: str, key: bytes, value: bytes) -> bool:
        """Keeps the estimate of a new stream: an OPEN. False: full, too many are open, or closed."""
        with self._lock:
            if self._is_closed or self._open_bytes + len(value) > self._bytes_max * OPEN_SHARE_MAX:
                return False
            segment = self._append(Kind.OPEN, key, value)
            if segment is None:
                return False
            self._open[stream_id] = _Open(Frame(Kind.OPEN, key, value), segment, time.monotonic())
            self._open_bytes += len(value)
        failpoints.hit("appended")
        return True

    def end_streams(self, before_s: float) -> list[str]:
        """Sends the estimates of the streams that began before this moment (time.monotonic); returns their ids."""
        ended = []
        with self._lock:
            for stream_id, stream in list(self._open.items()):
                _, key, value = stream.frame
                if stream.since_s < before_s and self._append(Kind.FINAL, key, value, is_reserved=True):
                    self._end(stream_id)
                    ended.append(stream_id)
        return ended

    def read(self, frames_max: int, bytes_max: int) -> Window | None:
        """The next frames to send, one at least, all of one segment; None when nothing waits. One reader."""
        with self._lock:
            segment = next((one for one in self._segments if one.confirmed < one.end), None)
            if segment is None:
                return None
            end = segment.end
        frames: list[Frame] = []
        size = 0
        position = segment.confirmed
        for frame, after in segment.read(position, end):
            size += len(frame.value)
            if frames and (len(frames) == frames_max or size > bytes_max):
                break
            frames.append(frame)
            position = after
        return Window(frames, segment, position)

    def confirm(self, window: Window) -> None:
        """Everything in the window is with the broker. Raises OSError where a file cannot be removed."""
        failpoints.hit("sent")
        with self._lock:
            window.segment.confirm(window.end)
            failpoints.hit("confirmed")
            self.confirmed += len(window.frames)
            self.events_confirmed += sum(frame.kind is not Kind.OPEN for frame in window.frames)
            if self._is_left_behind:
                return  # its segments say which streams are open until the last estimate is with the broker
            while len(self._segments) > 1 and self._segments[0].confirmed == self._segments[0].end:
                if not self._carry_over(self._segments[0]):
                    return
                failpoints.hit("carried")
                self._segments.pop(0).delete()
            self._renew(self._segments[-1])

    def sync(self) -> None:
        """Returns when what is on disk survives a power cut. Blocks. Raises OSError."""
        with self._lock:
            segments = [segment for segment in self._segments if segment.is_file]
        for segment in segments:
            segment.sync()
        if self._spool is not None:
            self._spool.sync()

    def close(self) -> None:
        """Lets everything go. What is on disk and not confirmed stays there. Raises OSError."""
        with self._lock:
            self._is_closed = True
            is_needed = bool(self._open) or self.appended > self.confirmed
            self._open.clear()
            for segment in self._segments:
                if is_needed:
                    segment.close()
                else:
                    segment.delete()
            self._segments.clear()
            if self._spool is not None:
                if is_needed:
                    self._spool.close()
                else:
                    self._spool.delete()
                self._spool = None

    def forget(self) -> None:
        """In a forked child: everything belongs to the parent; its files and lock stay as they are."""
        for segment in self._segments:
            segment.close()
        if self._spool is not None:
            self._spool.close()

    def _append(self, kind: Kind, key: bytes, value: bytes, *, is_reserved: bool = False) -> Segment | None:
        """Where it is now; None: full. There is a segment more for what is reserved: the ends of streams, and what has
        to go elsewhere so that a segment can go."""
        segment = self._segments[-1] if self._segments else None
        if segment is None or not segment.append(kind, key, value):
            segment = self._grow(len(key) + len(value), is_reserved=is_reserved)
            if segment is None or not segment.append(kind, key, value):
                return None
        self.appended += 1
        self.events += kind is not Kind.OPEN
        return segment

    def _grow(self, needed: int, *, is_reserved: bool) -> Segment | None:
        """The next segment, already in its place; None: no room for it."""
        segment = None
        if self._root is not None and time.monotonic() >= self._disk_retry_at:
            size = max(min(self._file_bytes, self._bounds.segment_bytes), needed + OVERHEAD)
            more = 0 if is_reserved else size
            if self._used(is_file=True) + more > self._bounds.spool_bytes_max:
                return None
            segment = self._new_file(self._root, size, more)
        if segment is None:
            size = max(self._bounds.segment_bytes, needed + OVERHEAD)
            if self._used(is_file=False) + (0 if is_reserved else size) > self._bounds.memory_bytes_max:
                return None
            segment = Segment.in_memory(size)
        self._segments.append(segment)
        return segment

    def _used(self, *, is_file: bool) -> int:
        return sum(one.size for one in self._segments if one.is_file is is_file)

    def _new_file(self, root: Path, size: int, more: int) -> Segment | None:
        """None: the disk has no room for it, or others have filled the folder."""
        try:
            others = Spool.bytes_beside(root, self._spool)
            if self._used(is_file=True) + others + more > self._bounds.spool_bytes_max:
                raise OSError(errno.EDQUOT, f"other processes have {others:,} bytes of spool_bytes_max in {root}")
            if self._spool is None:
                self._spool = Spool.create(root)
            segment = self._spool.new_segment(size)
        except OSError as error:
            self._disk_retry_at = time.monotonic() + DISK_RETRY_S
            self._disk_failed(error)
            return None
        self._file_bytes = min(self._file_bytes * FILE_GROWTH, self._bounds.segment_bytes)
        return segment

    def _renew(self, last: Segment) -> None:
        """A segment in memory whose frames are all confirmed is used again from its beginning, or makes room for a
        file where the disk may have room again."""
        if last.is_file or last.confirmed < last.end or any(one.segment is last for one in self._open.values()):
            return
        if self._root is None:
            last.rewind()
        else:
            self._segments.pop().delete()

    def _end(self, stream_id: str) -> None:
        self._open_bytes -= len(self._open.pop(stream_id).frame.value)

    def _carry_over(self, segment: Segment) -> bool:
        """Writes the open streams of a segment that is to go behind all others. False: it has to stay.

        They go in the order in which they were written, so that no OPEN outlives its FINAL. Not before there are twice
        as many segments as the open streams need: else they would be carried round for ever.
        """
        carried = [(stream_id, stream) for stream_id, stream in self._open.items() if stream.segment is segment]
        worthwhile = 2 + 2 * self._open_bytes // self._bounds.segment_bytes
        if carried and len(self._segments) < min(worthwhile, self._bytes_max // self._bounds.segment_bytes):
            return False
        for stream_id, stream in carried:
            home = self._append(*stream.frame, is_reserved=True)
            if home is None:
                return False
            self._open[stream_id] = stream._replace(segment=home)
        return True
