"""Batches as no well-behaved client makes them: built byte by byte, and sent as they are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_ZSTD_FRAME = b"\x28\xb5\x2f\xfd\x00\x38"  # magic number, no options, a window of 128 KiB
_ZSTD_BLOCK_MAX = 128 * 1024
_TIMEOUT_MS = 10_000


@dataclass(frozen=True)
class Raw:
    """A record; the names of headers are bytes. `delta`: instead of its place in the batch."""

    value: bytes | None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    key: bytes | None = b"key"
    delta: int | None = None


def batch(
    records: Sequence[Raw],
    codec: str = "none",
    *,
    junk: bytes = b"",
    encode: Callable[[bytes], bytes] | None = None,
    attributes: int = 0,
    producer_id: int = -1,
    last_delta: int | None = None,
) -> bytes:
    """A batch of message format 2; `junk` follows what was compressed, `encode` compresses in another way."""
    plain = b"".join(_record(raw, place) for place, raw in enumerate(records))
    packed = (_compress(codec, plain) if encode is None else encode(plain)) + junk
    last = len(records) - 1 if last_delta is None else last_delta
    checked = struct.pack(">hiqqqhii", CODECS[codec] | attributes, last, 0, 0, producer_id, -1, -1, len(records))
    checked += packed
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, calc_crc32c(checked)) + checked


def zstd_bomb(size: int) -> bytes:
    """A batch of one record with `size` NULs as its value: 4 bytes for 128 KiB, and nothing large is held here."""

    def encode(_: bytes) -> bytes:
        fields = b"\0" + _varint(0) + _varint(0) + _varint(-1) + _varint(size)
        head = _varint(len(fields) + size + 1) + fields
        blocks = [_ZSTD_FRAME, _zstd_block(0, len(head)), head]
        left = size + 1  # no headers: one NUL more
        while left:
            piece = min(left, _ZSTD_BLOCK_MAX)
            left -= piece
            blocks += [_zstd_block(1, piece, is_last=not left), b"\0"]
        return b"".join(blocks)

    return batch([Raw(b"")], "zstd", encode=encode)


def header_bomb(count: int, codec: str = "zstd") -> bytes:
    """A batch of one record with so many headers, all of them empty."""
    fields = b"\0" + _varint(0) + _varint(0) + _varint(-1) + _sized(b"{}") + _varint(count)
    record = _varint(len(fields) + 2 * count) + fields + bytes(2 * count)
    return batch([Raw(b"")], codec, encode=lambda _: _compress(codec, record))


def _zstd_block(kind: int, size: int, *, is_last: bool = False) -> bytes:
    return (size << 3 | kind << 1 | is_last).to_bytes(3, "little")


async def send(options: dict[str, Any], partition: TopicPartition, data: bytes) -> int:
    """-> the offset of its first record. Raises what the broker says against it."""
    client = AIOKafkaClient(**options)
    try:
        await client.bootstrap()
        await client.add_topic(partition.topic)
        node = client.cluster.leader_for_partition(partition)
        request = ProduceRequest(None, -1, _TIMEOUT_MS, [(partition.topic, [(partition.partition, data)])])
        response = await client.send(node, request)
    finally:
        await client.close()
    ((_, ((_, code, offset, *_),)),) = response.topics
    if code:
        raise for_code(code)(str(partition))
    assert isinstance(offset, int)
    return offset


def _compress(codec: str, plain: bytes) -> bytes:
    if codec == "none":
        return plain
    if codec == "snappy":
        return bytes(cramjam.snappy.compress_raw(plain))
    return bytes(getattr(cramjam, codec).compress(plain))


def _record(raw: Raw, place: int) -> bytes:
    body = b"\0" + _varint(0) + _varint(place if raw.delta is None else raw.delta)
    body += _sized(raw.key) + _sized(raw.value) + _varint(len(raw.headers))
    body += b"".join(_sized(name) + _sized(value) for name, value in raw.headers)
    return _varint(len(body)) + body


def _sized(text: bytes | None) -> bytes:
    return _varint(-1) if text is None else _varint(len(text)) + text


def _varint(number: int) -> bytes:
    """Zigzag, seven bits a byte, the lowest first."""
    left = number << 1 if number >= 0 else (-number << 1) - 1
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)
