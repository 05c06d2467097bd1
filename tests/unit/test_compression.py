"""A producer's batches are compressed as lightly as we ask for: aiokafka has no setting for it."""

import cramjam
import pytest
from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from meterstream.processors.compression import LEVEL, compress_fast

HEADER_BYTES = 61
"""Of a batch of version 2."""
STOCK_LEVEL = 3
VALUE = b"".join(b"%d,%d;" % (number * number % 9973, number) for number in range(5000))


def _compressed() -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=DefaultRecordBatch.CODEC_ZSTD,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1_000_000,
    )
    builder.append(0, 0, None, VALUE, [])
    return bytes(builder.build())


def test_a_batch_is_compressed_at_our_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec.zstd_encode, "__defaults__", (STOCK_LEVEL,))  # a rater in this process may have been here
    before = _compressed()
    compress_fast()
    after = _compressed()
    (record,) = DefaultRecordBatch(bytearray(after))
    assert record.value == VALUE
    content = after[HEADER_BYTES:]
    assert content == bytes(cramjam.zstd.compress(bytes(cramjam.zstd.decompress(content)), level=LEVEL))
    assert content != before[HEADER_BYTES:], "the level makes no difference to this value, so the test shows nothing"
