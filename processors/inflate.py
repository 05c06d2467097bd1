"""Decompression of what strangers have compressed: never to more than BATCH_BYTES_MAX. Pure."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from typing import Final

import cramjam

BATCH_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one batch, decompressed. Java's producer bounds the batch compressed, by what it expects: so this is far above
what others make."""

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_NAMES: Final = ("none", "gzip", "snappy", "lz4", "zstd")
UNREADABLE: Final = (ValueError, IndexError, struct.error, cramjam.DecompressionError)
"""What `inflate` raises."""

_TOO_LARGE: Final = f"it has more than {BATCH_BYTES_MAX >> 20} MiB, decompressed: publish smaller batches"
_FULL: Final = "failed to write whole buffer"
"""What cramjam says where the room does not do."""
_RATIO_MAX: Final = {GZIP: 1032, LZ4: 255}
"""The best that these formats can do."""
_SMALL_BYTES: Final = 256 * 1024
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16
_ZSTD_FRAME: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_REPEATED, _ZSTD_COMPRESSED = 1, 2
_ZSTD_BLOCK_BYTES_MAX: Final = 128 * 1024


def inflate(codec: int, data: memoryview) -> bytes:
    """`codec`: Kafka's number. Raises UNREADABLE, also where it would be more than BATCH_BYTES_MAX."""
    if codec not in _INFLATE:
        raise ValueError(f"its compression, number {codec}, is unknown")
    try:
        return _INFLATE[codec](data)
    except cramjam.DecompressionError as error:
        raise ValueError(_TOO_LARGE if _FULL in str(error) else f"it is no {_NAMES[codec]}: {error}") from error


def largest(codec: int, data: memoryview) -> tuple[int, int]:
    """How many bytes it may be decompressed, never too few; and how many of them were, to find out.

    The first is above BATCH_BYTES_MAX for what cannot be read, too. Looks at lengths where the format has them; gzip
    and lz4 have to be tried where they could be more than a little.
    """
    bound = len(data) * _RATIO_MAX.get(codec, 1)
    if codec == NONE or (codec in _RATIO_MAX and bound <= _SMALL_BYTES):
        return bound, 0
    try:
        if codec == ZSTD:
            return _zstd_largest(data), 0
        if codec == SNAPPY:
            return sum(map(cramjam.snappy.decompress_raw_len, _snappy_pieces(data))), 0
        found = len(inflate(codec, data))
    except UNREADABLE:
        return BATCH_BYTES_MAX + 1, BATCH_BYTES_MAX
    return found, found


def _zstd_largest(data: memoryview) -> int:
    """By the lengths of the blocks in its frames (RFC 8878). Raises UNREADABLE."""
    found = at = 0
    while at < len(data):
        if bytes(data[at : at + 4]) != _ZSTD_FRAME:
            raise ValueError("no frame")
        flags = data[at + 4]
        is_single = flags >> 5 & 1
        at += 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3] + (is_single, 2, 4, 8)[flags >> 6]
        is_last = False
        while not is_last:
            block = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            is_last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            found += size if kind != _ZSTD_COMPRESSED else _ZSTD_BLOCK_BYTES_MAX
            at += 3 + (1 if kind == _ZSTD_REPEATED else size)
        at += 4 * (flags >> 2 & 1)
    return found


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
            raise ValueError("a compressed piece is longer than its batch")
        yield data[at - size : at]


def _room() -> mmap.mmap:
    """Memory of which the system gives only what is written."""
    return mmap.mmap(-1, BATCH_BYTES_MAX)


_INFLATE: Final[dict[int, Callable[[memoryview], bytes]]] = {
    NONE: _stored,
    GZIP: _framed(cramjam.gzip.decompress_into),
    SNAPPY: _snappy,
    LZ4: _framed(cramjam.lz4.decompress_into),
    ZSTD: _framed(cramjam.zstd.decompress_into),
}
