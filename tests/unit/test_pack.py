"""The format of packs is frozen by its bytes; this version reads the one before it and refuses the one after."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.pack import (
    PACK_ROWS_MAX,
    PACK_VERSION,
    Covered,
    Row,
    decode_coverage,
    decode_pack,
    encode_coverage,
    encode_pack,
)
from meterstream.schema.position import SourcePartition

AT = datetime(2026, 11, 21, 10, 0, 0, 250_000, tzinfo=UTC)
ROW: tuple[Any, ...] = (
    5 << 20, bytes(range(16)), -7, "acme", "id-1", "svc", AT, AT, "openai", "gpt-4o", "chat", "p", "u", "k", "ok", 200,
    812, "priced", 3, "USD", 1_500_000, 10, 20, 3, 4, 5, '{"images":1}', None, '{"a":"b"}', None, "0.5", "USD",
)  # fmt: skip
PACK_V1 = bytes.fromhex(
    "960101020ace0060000091dc0020ce00500000c410000102030405060708090a0b0c0d0e0ff9a461636d65a469642d31a3737663d7ff3b"
    "9aca006b016ba0d7ff3b9aca006b016ba0a66f70656e6169a66770742d346fa463686174a170a175a16ba26f6bccc8cd032ca670726963"
    "656403a3555344ce0016e3600a14030405ac7b22696d61676573223a317dc0a97b2261223a2262227dc0a3302e35a3555344"
)
"""What version 1 has always looked like: a topic may hold such records for a week."""


def test_a_pack_survives_the_way_through_its_bytes() -> None:
    pack = decode_pack(encode_pack(SourcePartition(1, 2), 10, 6 << 20, [ROW], 99))
    assert (pack.version, pack.source_partition, pack.lo, pack.hi) == (PACK_VERSION, (1, 2), 10, 6 << 20)
    assert pack.watermark_ms == 99
    assert msgspec.structs.astuple(pack.rows[0]) == ROW


def test_version_1_is_frozen() -> None:
    assert encode_pack(SourcePartition(1, 2), 10, 6 << 20, [ROW], 258) == b"\x97" + PACK_V1[1:] + b"\xcd\x01\x02"
    old = decode_pack(PACK_V1)  # before packs had a watermark
    assert msgspec.structs.astuple(old.rows[0]) == ROW
    assert old.watermark_ms == 0


def test_a_row_as_tuple_and_as_struct_are_the_same_bytes() -> None:
    as_struct = msgspec.msgpack.encode((PACK_VERSION, 1, 2, 10, 11, [Row(*ROW)], 99))
    assert encode_pack(SourcePartition(1, 2), 10, 11, [ROW], 99) == as_struct


@pytest.mark.parametrize("count", [0, 1, 15, 16, PACK_ROWS_MAX])
def test_rows_encoded_one_by_one_are_the_same_bytes(count: int) -> None:
    as_one = msgspec.msgpack.encode((PACK_VERSION, 1, 2, 10, 11, [ROW] * count, 99))
    assert encode_pack(SourcePartition(1, 2), 10, 11, [ROW] * count, 99) == as_one


def test_the_fields_of_version_1_stand() -> None:
    """A new field goes last and has a default; none is moved, renamed or removed within a version."""
    names = Row.__struct_fields__
    assert names[:26] == (
        "position", "claim", "body", "tenant", "event_id", "source", "occurred_at", "appended_at", "provider", "model",
        "operation", "project_id", "user_id", "api_key_id", "status", "status_code", "latency_ms", "pricing",
        "price_revision", "currency", "amount_pico", "input_tokens", "output_tokens", "cache_read_tokens",
        "cache_write_tokens", "reasoning_tokens",
    )  # fmt: skip
    assert len(Row.__struct_defaults__) == len(names) - 26


@pytest.mark.parametrize("version", [PACK_VERSION - 1, PACK_VERSION])
def test_this_version_reads_the_one_before(version: int) -> None:
    short = ROW[:26]  # an older writer knows fewer fields; the newer ones have their defaults
    pack = decode_pack(msgspec.msgpack.encode((version, 1, 2, 10, 11, [short])))
    assert pack.rows[0].quantities is None
    longer = (*ROW, "a field that a newer writer of the same version has added")
    assert decode_pack(msgspec.msgpack.encode((version, 1, 2, 10, 11, [longer]))).rows[0].tenant == "acme"


@pytest.mark.parametrize("version", [PACK_VERSION + 1, -1, 99])
def test_another_version_is_refused_with_what_to_do(version: int) -> None:
    with pytest.raises(RecordUnreadable, match="upgrade the readers"):
        decode_pack(msgspec.msgpack.encode((version, 1, 2, 10, 11, [])))
    with pytest.raises(RecordUnreadable, match="upgrade the readers"):
        decode_coverage(msgspec.msgpack.encode((version, [])))


def test_coverage() -> None:
    covered = Covered(1, 2, 0, 99, 1_795_000_000_000)
    assert decode_coverage(encode_coverage([covered])).covered == (covered,)


@pytest.mark.parametrize("value", [b"", b"\xff", b"\x90", b"{}", b"\x96" + b"\xc0" * 6])
def test_bytes_that_are_no_pack(value: bytes) -> None:
    with pytest.raises(RecordUnreadable):
        decode_pack(value)
    with pytest.raises(RecordUnreadable):
        decode_coverage(value)
