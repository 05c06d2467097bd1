"""Record batches as they lie on a broker, taken apart without trust in who wrote them. Pure.

aiokafka takes batches apart too, and much faster. But it gives no record at all of a poll in which the name of one
header is not UTF-8, or in which one batch cannot be decompressed. And it believes a record that says how far it stands
from the first of its batch, which a broker does not check where nothing is compressed: such a record may claim an
offset that others have, or will have. So any publisher could stop a reader that relies on it, or make it pass others'
records by. Here every offset of a batch ends as a record, at the offset that the broker has given it; of what cannot be
read it says why, and keeps the bytes.

The format is version 2 (Kafka's protocol guide, "Record Batch"), the only one that a broker of version 4 writes.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol, Self

import cramjam
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.util import calc_crc32c
from aiokafka.record.util import decode_varint_py as decode_varint  # the other one trusts its input

from meterstream.processors.inflate import UNREADABLE, inflate, largest
from meterstream.schema.cloudevents import HEADERS_MAX
from meterstream.schema.errors import BatchDamaged

BATCHES_AT_ONCE: Final = 16

CLIENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Decompressed: a larger batch is not given to the client, which takes it apart whole, whatever is in it. Most
producers bound a batch before they compress it, to about 1 MiB."""


class PollTooLong(Exception):
    """The client takes longer over one poll than any honest batch needs."""


CLIENT_ERRORS: Final = (
    PollTooLong,
    UnicodeDecodeError,
    CorruptRecordException,
    UnsupportedCodecError,
    cramjam.DecompressionError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
)
"""What aiokafka raises of a batch that it cannot take apart, or that we do not let it. After one of them what it had
read of *other* partitions in the same poll is lost too: seek them all."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_SIZE_AT: Final = struct.Struct(">qi")
"""Base offset, and how many bytes follow."""
_CHECKED_FROM: Final = struct.calcsize(">qiibI")
_FORMAT: Final = 2
_SEE: Final = "See docs/operate.md"
_CODEC, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record. A header's name that is not UTF-8 has surrogates where the wrong bytes are (`surrogateescape`)."""

    offset: int
    timestamp: int
    """Append time, ms since 1970."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class UnreadableRecord(RawRecord):
    """A record of a batch that cannot be taken apart. `value` of the first: what is stored of the whole batch."""

    fault: str = ""


class HasOffset(Protocol):
    """What is looked at of a Kafka record (aiokafka's ConsumerRecord has it)."""

    @property
    def offset(self) -> int: ...


def is_seamless(records: Sequence[HasOffset], first: int, end: int) -> bool:
    """True when aiokafka has given out each offset of [first, end) once, in order.

    Otherwise nothing is proved: what lies between may be what transactions leave (aborted records, markers), or a
    record that lied about its offset may have hidden others.
    """
    return [record.offset for record in records] == list(range(first, end))


class Batches:
    """The records of what one fetch has brought, in order, each offset once; of transactions the committed ones.

    An iterator; raises BatchDamaged. `next_offset`: everything before it has been given out, or is no record (markers
    of transactions, what was aborted, what compaction took). `is_over`: nothing is left.
    """

    def __init__(self, name: str, data: bytes, aborted: Iterable[tuple[int, int]], offset: int) -> None:
        """`name`: of the partition. `data`: batches, the last perhaps cut off; the first may begin before `offset`.

        `aborted`: (producer id, first offset) of each aborted transaction among them.
        """
        self._name = name
        self._data = memoryview(data)
        self._aborted = deque(sorted(aborted, key=lambda transaction: transaction[1]))
        self._records = self._read()
        self._opened = 0
        self.next_offset = offset
        self.is_over = False

    @property
    def is_empty(self) -> bool:
        """True when nothing was there."""
        return not self._data

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RawRecord:
        return next(self._records)

    def take(self, records_max: int) -> list[RawRecord]:
        """The next records, in bounded time: of a few batches at most, since one may hold very much."""
        taken: list[RawRecord] = []
        last = self._opened + BATCHES_AT_ONCE
        while len(taken) < records_max and self._opened < last and not self.is_over:
            taken += islice(self._records, 1)
        return taken

    def _read(self) -> Iterator[RawRecord]:
        aborting: set[int] = set()
        for batch in _batches(self._name, self._data):
            self._opened += 1
            while self._aborted and self._aborted[0][1] <= batch.base_offset:
                aborting.add(self._aborted.popleft()[0])
            if batch.attributes & _CONTROL:
                aborting.discard(batch.producer_id)
            elif not (batch.attributes & _TRANSACTIONAL and batch.producer_id in aborting):
                for record in batch.records(self.next_offset):
                    self.next_offset = record.offset + 1
                    yield record
            self.next_offset = max(self.next_offset, batch.next_offset)
        self.is_over = True


@dataclass(frozen=True, slots=True)
class _Batch:
    base_offset: int
    next_offset: int
    attributes: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    count: int
    body: memoryview

    def records(self, first: int) -> Iterator[RawRecord]:
        """From the offset `first` on. Where the batch becomes unreadable, its other offsets are UnreadableRecord."""
        offset = max(first, self.base_offset)
        try:
            for record in self._readable(offset):
                offset = record.offset + 1
                yield record
            return
        except UNREADABLE as error:
            why = str(error) if isinstance(error, ValueError) else "it ends in the middle of a record"
            fault = f"the batch cannot be read: {why}"
        for unreadable in range(offset, self.next_offset):
            kept = bytes(self.body) if unreadable == offset else b""
            yield UnreadableRecord(unreadable, self.max_timestamp, None, kept, (), fault)

    def _readable(self, first: int) -> Iterator[RawRecord]:
        data = inflate(self.attributes & _CODEC, self.body)
        is_whole = self.count == self.next_offset - self.base_offset
        at = 0
        for place in range(self.count):
            size, begin = decode_varint(data, at)
            at = begin + size
            if size < 0 or at > len(data):
                raise ValueError("a record is longer than its batch")
            _, begin = decode_varint(data, begin)  # attributes: none are defined
            delta_ms, begin = decode_varint(data, begin)
            delta, begin = decode_varint(data, begin)
            offset = self.base_offset + (place if is_whole else delta)
            if offset >= self.next_offset:
                raise ValueError(f"a record says that it stands {delta} behind the first")
            if offset >= first:
                is_append_time = self.attributes & _APPEND_TIME
                timestamp = self.max_timestamp if is_append_time else self.first_timestamp + delta_ms
                yield RawRecord(offset, timestamp, *_content(data, begin, at))
                first = offset + 1
        if at != len(data):
            raise ValueError("something follows the last record")


def _batches(name: str, data: memoryview) -> Iterator[_Batch]:
    at = 0
    while at + _SIZE_AT.size <= len(data):
        base_offset, size = _SIZE_AT.unpack_from(data, at)
        place = f"{name}: the batch at offset {base_offset}"
        batch = data[at : at + _SIZE_AT.size + size]
        at += _SIZE_AT.size + size
        if at > len(data):
            return  # cut off by the bound of the fetch: it comes again
        if len(batch) < _HEADER.size:
            raise BatchDamaged(f"{place} is too short. {_SEE}")
        _, _, _, form, checksum, attributes, delta, first_ms, max_ms, producer_id, _, _, count = _HEADER.unpack_from(
            batch
        )
        if form != _FORMAT:
            raise BatchDamaged(f"{place} is of message format {form}, not {_FORMAT}. {_SEE}")
        if calc_crc32c(bytes(batch[_CHECKED_FROM:])) != checksum:
            raise BatchDamaged(f"{place} does not match its checksum. {_SEE}")
        yield _Batch(
            base_offset,
            base_offset + delta + 1,
            attributes,
            first_ms,
            max_ms,
            producer_id,
            count,
            batch[_HEADER.size :],
        )


def _content(data: bytes, at: int, end: int) -> tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]:
    """Key, value and headers of the record that ends at `end`."""
    key, at = _bytes(data, at, end)
    value, at = _bytes(data, at, end)
    count, at = decode_varint(data, at)
    headers = []
    for _ in range(min(count, HEADERS_MAX + 1)):  # as many as show that they are too many
        name, at = _bytes(data, at, end)
        content, at = _bytes(data, at, end)
        headers.append(((name or b"").decode("utf-8", "surrogateescape"), content or b""))
    if at != end and count <= HEADERS_MAX:
        raise ValueError("a record is longer than what it holds")
    return key, value, tuple(headers)


def _bytes(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(data, at)
    if size < 0:
        return None, at
    if at + size > end:
        raise ValueError("a text is longer than its record")
    return data[at : at + size], at + size


# --------------------------------------------------------------------------- before the client takes them apart


def for_client(data: bytes, tried_max: int) -> tuple[bytes, int]:
    """The first batches of a fetch that aiokafka may take apart, and how many bytes were decompressed to find out.

    They end with the first batch above CLIENT_BYTES_MAX: one without content and with a wrong checksum stands for it,
    so the client raises one of CLIENT_ERRORS there, and its user reads the batch with `Batches`. They also end where
    more than `tried_max` bytes were decompressed here; what is left comes with the next fetch.
    """
    at = tried = 0
    while at + _HEADER.size <= len(data) and tried <= tried_max:
        size = _SIZE_AT.size + int.from_bytes(data[at + 8 : at + _SIZE_AT.size], "big", signed=True)
        if size < _HEADER.size or at + size > len(data):
            return data, tried
        codec = data[at + _CHECKED_FROM + 1] & _CODEC
        content, more = largest(codec, memoryview(data)[at + _HEADER.size : at + size])
        tried += more
        if content > CLIENT_BYTES_MAX:
            return data[:at] + _refused(data[at : at + _HEADER.size]), tried
        at += size
    return (data[:at] if tried > tried_max else data), tried


def _refused(header: bytes) -> bytes:
    """The header of a batch, as one that has no content and cannot have its checksum."""
    batch = bytearray(header)
    batch[8 : _SIZE_AT.size] = (_HEADER.size - _SIZE_AT.size).to_bytes(4, "big")
    wrong = calc_crc32c(bytes(batch[_CHECKED_FROM:])) ^ 1
    batch[_CHECKED_FROM - 4 : _CHECKED_FROM] = wrong.to_bytes(4, "big")
    return bytes(batch)
