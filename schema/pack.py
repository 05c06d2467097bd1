"""The records of `usage.priced`: packs of priced rows, and coverage.

One record is one msgpack array. A pack holds at most `PACK_ROWS_MAX` rows of one source partition that
go to one priced partition, and says which positions of that source partition it covers for it:
every position in [lo, hi] whose tenant belongs there is in the pack. A coverage record has no rows.

So the positions of a source partition that a priced partition has covered are always a prefix. A
consumer keeps the highest one per source partition and needs one comparison to skip repeats, and sees
a gap at once.

Version N of this module reads versions N and N-1; a new field goes last and has a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.position import SourcePartition

PACK_VERSION: Final = 1
PACK_ROWS_MAX: Final = 300
PACK_BYTES_MAX: Final = 3 * 1024 * 1024
"""Of the rows of a pack. A row has at most some 100 KiB; a record of `usage.priced` at most 4 MiB."""
KIND_HEADER: Final = "meterstream-kind"
KIND_COVERAGE: Final = b"coverage"
COVERAGE_HEADERS: Final = ((KIND_HEADER, KIND_COVERAGE),)

PRICED: Final = "priced"
UNPRICED: Final = "unpriced"
UNMETERED: Final = "unmetered"


class Row(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One admitted event with its charge. The rater writes plain tuples in this order."""

    position: int
    claim: bytes
    """16 bytes, see `meterstream.schema.ids`."""
    body: int
    """Signed 64-bit hash of the decoded event, before price and transport fields."""
    tenant: str
    event_id: str
    source: str
    occurred_at: datetime
    appended_at: datetime
    """The broker's append time of the raw record."""
    provider: str
    model: str
    operation: str
    project_id: str
    user_id: str
    api_key_id: str
    status: str
    status_code: int | None
    latency_ms: int | None
    pricing: str
    """`priced`; `unpriced`: some quantity has no price; `unmetered`: the vendor's usage could not be read."""
    price_revision: int
    currency: str
    amount_pico: int | None
    """None unless priced."""
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    quantities: str | None = None
    """JSON object of the other units: unit -> integer or decimal text."""
    attributes: str | None = None
    """JSON object of the event's other attributes."""
    tags: str | None = None
    """JSON object."""
    vendor_usage: str | None = None
    """What the vendor said of usage, as JSON: `meterstream.schema.vendor_body`."""
    reported_amount: str | None = None
    reported_currency: str | None = None


RowTuple = tuple[object, ...]
_AnyPack = TypeVar("_AnyPack", "Pack", "Claimed")


class Pack(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Rows of one source partition for one priced partition, in order of position."""

    version: int
    source_id: int
    partition: int
    lo: int
    """The lowest position that this pack covers."""
    hi: int
    """The highest position that this pack covers."""
    rows: tuple[Row, ...]
    watermark_ms: int = 0
    """Highest append time that the rater had seen in this source partition when it cut the pack: at least that of every
    record of [lo, hi]. ms since 1970; 0: an older writer."""

    @property
    def source_partition(self) -> SourcePartition:
        return SourcePartition(self.source_id, self.partition)


class ClaimedRow(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The beginning of a `Row`."""

    position: int
    claim: bytes


class Claimed(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A `Pack` for a reader that asks only which ids were in it: decoding costs a sixth."""

    version: int
    source_id: int
    partition: int
    lo: int
    hi: int
    rows: tuple[ClaimedRow, ...]
    watermark_ms: int = 0


class Covered(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One source partition's part of a coverage record: [lo, hi] holds nothing more for this partition."""

    source_id: int
    partition: int
    lo: int
    hi: int
    watermark_ms: int
    """Highest append time that the rater has seen in this source partition since it began to read there: that of the
    record at `hi` or of an earlier one, and at least that of every record of [lo, hi]. ms since 1970; 0: none yet."""


class Coverage(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a rater has covered of each of its source partitions, sent to every priced partition."""

    version: int
    covered: tuple[Covered, ...]


_encoder = msgspec.msgpack.Encoder()
# How msgpack begins an array: the pack itself; up to 15 members; up to 65,535.
_ARRAY_OF_7, _SHORT_ARRAY, _LONG_ARRAY = b"\x97", 0x90, b"\xdc"
_packs = msgspec.msgpack.Decoder(Pack)
_claims = msgspec.msgpack.Decoder(Claimed)
_rows = msgspec.msgpack.Decoder(Row)
_coverages = msgspec.msgpack.Decoder(Coverage)


def encode_pack(source: SourcePartition, lo: int, hi: int, rows: list[RowTuple], watermark_ms: int) -> bytes:
    """Rows are tuples in the order of `Row`'s fields, at most `PACK_ROWS_MAX`."""
    return join_pack(source, lo, hi, [encode_row(row) for row in rows], watermark_ms)


def encode_row(row: RowTuple) -> bytes:
    """One row for `join_pack`. Raises TypeError, ValueError or OverflowError for what no pack can hold."""
    return _encoder.encode(row)


def join_pack(source: SourcePartition, lo: int, hi: int, rows: Sequence[bytes], watermark_ms: int) -> bytes:
    """A pack of encoded rows, at most `PACK_ROWS_MAX`."""
    head = b"".join(map(_encoder.encode, (PACK_VERSION, source.source_id, source.partition, lo, hi)))
    count = len(rows)
    array = bytes((_SHORT_ARRAY | count,)) if count < 16 else _LONG_ARRAY + count.to_bytes(2, "big")
    return b"".join((_ARRAY_OF_7, head, array, *rows, _encoder.encode(watermark_ms)))


def encode_coverage(covered: list[Covered]) -> bytes:
    """The value of a coverage record; send it with `COVERAGE_HEADERS`."""
    return _encoder.encode(Coverage(PACK_VERSION, tuple(covered)))


def decode_pack(value: bytes) -> Pack:
    """Raises RecordUnreadable when the value is no pack of a version that this module reads."""
    return _decode_pack(_packs, value)


def decode_row(value: bytes) -> Row:
    """The reverse of `encode_row`, for whoever has just made it."""
    return _rows.decode(value)


def decode_claims(value: bytes) -> Claimed:
    """A pack, without what else is in its rows. Raises RecordUnreadable as `decode_pack`."""
    return _decode_pack(_claims, value)


def _decode_pack(decoder: msgspec.msgpack.Decoder[_AnyPack], value: bytes) -> _AnyPack:
    try:
        pack = decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise RecordUnreadable(f"not a pack: {error}") from error
    _check_version(pack.version)
    return pack


def decode_coverage(value: bytes) -> Coverage:
    """Raises RecordUnreadable when the value is no coverage of a version that this module reads."""
    try:
        coverage = _coverages.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RecordUnreadable(f"not a coverage record: {error}") from error
    _check_version(coverage.version)
    return coverage


def _check_version(version: int) -> None:
    if version not in (PACK_VERSION, PACK_VERSION - 1):
        raise RecordUnreadable(
            f"pack format {version}, but this version reads {PACK_VERSION - 1} and {PACK_VERSION}: "
            "upgrade the readers before the raters"
        )
