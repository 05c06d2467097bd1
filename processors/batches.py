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
import mmap
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

import cramjam
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.util import calc_crc32c
from aiokafka.record.util import decode_varint_py as decode_varint  # the other one trusts its input

from meterstream.schema.errors import BatchDamaged

BATCH_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one batch, decompressed. Most producers bound a batch before they compress it, to about 1 MiB; Java's does so
after it, and bounds what it takes for the size before."""

CLIENT_ERRORS: Final = (
    UnicodeDecodeError,
    CorruptRecordException,
    UnsupportedCodecError,
    cramjam.DecompressionError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
)
"""What aiokafka raises of a batch that it cannot take apart. After one of them what it had read of *other* partitions
in the same poll is lost too: seek them all."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_SIZE_AT: Final = struct.Struct(">qi")
"""Base offset, and how many bytes follow."""
_CHECKED_FROM: Final = struct.calcsize(">qiibI")
_FORMAT: Final = 2
_SEE: Final = "See docs/operate.md"
_CODEC, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_SNAPPY, _ZSTD = 2, 4
_ZSTD_FRAME: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_REPEATED, _ZSTD_COMPRESSED = 1, 2
_ZSTD_BLOCK_BYTES_MAX: Final = 128 * 1024
_CERTAIN_BYTES: Final = {
    1: BATCH_BYTES_MAX // 1032,
    3: BATCH_BYTES_MAX // 255,
    _ZSTD: BATCH_BYTES_MAX // _ZSTD_BLOCK_BYTES_MAX * 4,
}
"""Codec -> a compressed batch of so many bytes is never above the bound: gzip's and lz4's best ratios; zstd's smallest
block is of four bytes."""
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16
_TOO_LARGE: Final = f"it is above {BATCH_BYTES_MAX} bytes, decompressed"


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
    of transactions, what was aborted, what compaction took).
    """

    def __init__(self, name: str, data: bytes, aborted: Iterable[tuple[int, int]], offset: int) -> None:
        """`name`: of the partition. `data`: batches, the last perhaps cut off; the first may begin before `offset`.

        `aborted`: (producer id, first offset) of each aborted transaction among them.
        """
        self._name = name
        self._data = memoryview(data)
        self._aborted = deque(sorted(aborted, key=lambda transaction: transaction[1]))
        self._records = self._read()
        self.next_offset = offset

    @property
    def is_empty(self) -> bool:
        """True when nothing was there."""
        return not self._data

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RawRecord:
        return next(self._records)

    def _read(self) -> Iterator[RawRecord]:
        aborting: set[int] = set()
        for batch in _batches(self._name, self._data):
            while self._aborted and self._aborted[0][1] <= batch.base_offset:
                aborting.add(self._aborted.popleft()[0])
            if batch.attributes & _CONTROL:
                aborting.discard(batch.producer_id)
            elif not (batch.attributes & _TRANSACTIONAL and batch.producer_id in aborting):
                for record in batch.records(self.next_offset):
                    self.next_offset = record.offset + 1
                    yield record
            self.next_offset = max(self.next_offset, batch.next_offset)


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
        except _UNREADABLE as error:
            fault = f"{type(error).__name__}: {error}"
        for unreadable in range(offset, self.next_offset):
            kept = bytes(self.body) if unreadable == offset else b""
            yield UnreadableRecord(unreadable, self.max_timestamp, None, kept, (), fault)

    def _readable(self, first: int) -> Iterator[RawRecord]:
        inflate = _INFLATE.get(self.attributes & _CODEC)
        if inflate is None:
            raise ValueError(f"compression {self.attributes & _CODEC} is unknown")
        data = inflate(self.body)
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
    for _ in range(count):
        name, at = _bytes(data, at, end)
        content, at = _bytes(data, at, end)
        headers.append(((name or b"").decode("utf-8", "surrogateescape"), content or b""))
    if at != end:
        raise ValueError("a record is longer than what it holds")
    return key, value, tuple(headers)


def _bytes(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(data, at)
    if size < 0:
        return None, at
    if at + size > end:
        raise ValueError("a text is longer than its record")
    return data[at : at + size], at + size


# --------------------------------------------------------------------------- decompression, bounded


def _stored(data: memoryview) -> bytes:
    return bytes(data)


def _framed(decompress_into: Callable[[memoryview, mmap.mmap], int]) -> Callable[[memoryview], bytes]:
    def inflate(data: memoryview) -> bytes:
        with _room() as room:
            return room[: decompress_into(data, room)]

    return inflate


def _snappy(data: memoryview) -> bytes:
    pieces = list(_snappy_pieces(data))
    if sum(map(cramjam.snappy.decompress_raw_len, pieces)) > BATCH_BYTES_MAX:
        raise ValueError(_TOO_LARGE)
    return b"".join(bytes(cramjam.snappy.decompress_raw(piece)) for piece in pieces)


def _snappy_pieces(data: memoryview) -> Iterator[memoryview]:
    """One, or those that Java's library makes: each with its length before it."""
    if bytes(data[: len(_XERIAL)]) != _XERIAL:
        yield data
        return
    at = _XERIAL_HEADER_BYTES
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        at += 4 + size
        if size <= 0 or at > len(data):
            raise ValueError("a piece is longer than its batch")
        yield data[at - size : at]


def _room() -> mmap.mmap:
    """Memory of which the system gives only what is written."""
    return mmap.mmap(-1, BATCH_BYTES_MAX)


_INFLATE: Final[dict[int, Callable[[memoryview], bytes]]] = {
    0: _stored,
    1: _framed(cramjam.gzip.decompress_into),
    2: _snappy,
    3: _framed(cramjam.lz4.decompress_into),
    4: _framed(cramjam.zstd.decompress_into),
}
_UNREADABLE: Final = (ValueError, IndexError, struct.error, cramjam.DecompressionError)


# --------------------------------------------------------------------------- before the client decompresses


def without_bombs(data: bytes) -> bytes:
    """`data` with each batch that is above BATCH_BYTES_MAX decompressed made one that the client refuses unread.

    aiokafka decompresses a batch whole, whatever it holds. It checks the checksum first: so a batch without content,
    whose checksum is wrong, stands for such a one; the client raises one of CLIENT_ERRORS in its place.
    """
    pieces: list[bytes] = []
    at = kept = 0
    while at + _HEADER.size <= len(data):
        size = _SIZE_AT.size + int.from_bytes(data[at + 8 : at + _SIZE_AT.size], "big", signed=True)
        if size < _HEADER.size or at + size > len(data):
            break
        codec = data[at + _CHECKED_FROM + 1] & _CODEC
        if codec and not _fits(codec, memoryview(data)[at + _HEADER.size : at + size]):
            header = bytearray(data[at : at + _HEADER.size])
            _SIZE_AT.pack_into(header, 0, _SIZE_AT.unpack_from(header)[0], _HEADER.size - _SIZE_AT.size)
            # The content has gone: the checksum, whatever it was, is made one that cannot be right.
            wrong = calc_crc32c(bytes(header[_CHECKED_FROM:])) ^ 1
            struct.pack_into(">I", header, _CHECKED_FROM - 4, wrong)
            pieces += [data[kept:at], bytes(header)]
            kept = at + size
        at += size
    return b"".join([*pieces, data[kept:]]) if pieces else data


def _fits(codec: int, body: memoryview) -> bool:
    """False for what cannot be decompressed, or only to more than BATCH_BYTES_MAX. Looks no further than it must."""
    if len(body) <= _CERTAIN_BYTES.get(codec, 0):
        return True
    if codec == _ZSTD and _zstd_bytes_max(body) <= BATCH_BYTES_MAX:
        return True
    try:
        if codec == _SNAPPY:
            return sum(map(cramjam.snappy.decompress_raw_len, _snappy_pieces(body))) <= BATCH_BYTES_MAX
        _INFLATE[codec](body)
    except (KeyError, *_UNREADABLE):
        return False
    return True


def _zstd_bytes_max(body: memoryview) -> int:
    """At most so many bytes are in these frames: by the lengths of their blocks (RFC 8878), nothing is decompressed.

    What it does not understand counts as more than any bound.
    """
    found = at = 0
    try:
        while at < len(body):
            if bytes(body[at : at + 4]) != _ZSTD_FRAME:
                return BATCH_BYTES_MAX + 1
            flags = body[at + 4]
            is_single = flags >> 5 & 1
            at += 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3] + (is_single, 2, 4, 8)[flags >> 6]
            is_last = False
            while not is_last:
                block = body[at] | body[at + 1] << 8 | body[at + 2] << 16
                is_last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
                found += size if kind != _ZSTD_COMPRESSED else _ZSTD_BLOCK_BYTES_MAX
                at += 3 + (1 if kind == _ZSTD_REPEATED else size)
            at += 4 * (flags >> 2 & 1)
    except IndexError:
        return BATCH_BYTES_MAX + 1
    return found
