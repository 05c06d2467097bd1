"""Batches taken apart without trust: every offset ends as a record, and memory is bounded."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.codec import lz4_encode, snappy_encode
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from meterstream.processors.batches import (
    BATCHES_AT_ONCE,
    CLIENT_BYTES_MAX,
    Batches,
    PollTooLong,
    RawRecord,
    UnreadableRecord,
    for_client,
    is_seamless,
)
from meterstream.processors.inflate import BATCH_BYTES_MAX
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.decode import decode_record
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.processors.raw_fetch import HEADERS_UNWATCHED, PollWatch, ThinRecords
from meterstream.schema.cloudevents import HEADERS_MAX
from meterstream.schema.errors import BatchDamaged, EventRejected
from meterstream.schema.position import SourcePartition, split_position
from tests.raw_batch import CODECS, Raw, batch, header_bomb, zstd_bomb

SEED = 20261121
PARTITION = TopicPartition("usage.raw", 0)
ROOM = 1 << 30
COMMITTED, ABORTED = b"\0\0\0\1", b"\0\0\0\0"


def at(offset: int, data: bytes) -> bytes:
    """As the broker stores it: base offset and leader epoch are not part of what is checked."""
    return struct.pack(">q", offset) + data[8:]


def read(data: bytes, offset: int = 0, aborted: Iterable[tuple[int, int]] = ()) -> list[RawRecord]:
    return list(Batches("usage.raw/0", data, aborted, offset))


@pytest.mark.parametrize("codec", CODECS)
def test_it_reads_what_aiokafka_writes_and_reads(codec: str) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1 << 20)
    for place in range(300):
        headers: list[tuple[str, bytes | None]] = [("é" * dice.randrange(3), dice.choice([None, b"", b"x"]))]
        text = [None, b"", b"x" * dice.choice([1, 63, 64, 8_191, 8_192])]
        builder.append(place, place * 1_000, dice.choice(text), dice.choice(text), headers * dice.randrange(3))
    data = at(70, bytes(builder.build()))
    theirs = [
        (r.offset, r.timestamp, r.key, r.value, tuple((name, value or b"") for name, value in r.headers))
        for r in MemoryRecords(data).next_batch()
    ]
    ours = [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in read(data)]
    assert ours == theirs
    assert len(ours) == 300
    assert [r.offset for r in read(data, 200)] == list(range(200, 370))
    assert read(data[:-1]) == [], "a batch that is cut off comes again"


@pytest.mark.parametrize("is_watched", [True, False])
def test_thin_records_are_those_of_aiokafka(is_watched: bool) -> None:
    values = [Raw(b"a", ((b"name", b"x"),)), Raw(None, key=None), Raw(b"", ((b"n", b""),) * (HEADERS_UNWATCHED + 1))]
    data = at(70, batch(values)) + at(73, batch(values, "zstd"))
    watch: Any = PollWatch() if is_watched else None

    def unpacked(kind: Any) -> Any:
        return kind(PARTITION, MemoryRecords(data), [], 71, None, watch, True, READ_COMMITTED)

    stock, thin = unpacked(PartitionRecords), unpacked(ThinRecords)
    theirs, ours = list(stock), list(thin)
    assert [fields(record) for record in ours] == [fields(record) for record in theirs]
    assert [record.offset for record in ours] == [71, 72, 73, 74, 75]
    assert thin.next_fetch_offset == stock.next_fetch_offset == 76
    assert isinstance(ours[0], ConsumerRecord) is not is_watched


def test_a_poll_of_many_headers_still_ends() -> None:
    watch = PollWatch()
    records = [*[Raw(b"a")] * 5, Raw(b"b", ((b"n", b""),) * (HEADERS_UNWATCHED + 1))]
    thin = ThinRecords(PARTITION, MemoryRecords(batch(records)), [], 0, None, watch, True, READ_COMMITTED)
    watch._until_s = 0.0  # the poll has taken its time
    given = iter(thin)
    assert [next(given).value for _ in range(5)] == [b"a"] * 5
    with pytest.raises(PollTooLong):
        next(given)


def fields(record: Any) -> tuple[Any, ...]:
    return record.offset, record.timestamp, record.key, record.value, tuple(record.headers)


@pytest.mark.parametrize("encode", [lambda data: snappy_encode(data, xerial_compatible=True, xerial_blocksize=100)])
def test_snappy_in_pieces_as_java_writes_it(encode: Any) -> None:
    values = [str(number).encode() * 40 for number in range(50)]
    data = batch([Raw(value) for value in values], "snappy", encode=encode)
    assert [record.value for record in read(data)] == values


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_that_is_too_large_decompressed_is_rejected_whole_and_its_neighbours_are_not(codec: str) -> None:
    encode = lz4_encode if codec == "lz4" else None
    bomb = batch([Raw(b"[]"), Raw(bytes(BATCH_BYTES_MAX)), Raw(b"[]")], codec, encode=encode)
    data = b"".join([at(0, batch([Raw(b"{}")])), at(1, bomb), at(4, batch([Raw(b"{}")]))])
    records = read(data)
    assert [record.offset for record in records] == [0, 1, 2, 3, 4]
    assert [isinstance(record, UnreadableRecord) for record in records] == [False, True, True, True, False]
    assert [record.value for record in records[1:4]] == [bomb[61:], b"", b""]

    rater = Rater(Router(4), Book([], 0), frozenset({"somebody"}))
    outbox = Outbox(SourcePartition(1, 0), start_offset=0, priced=4, rejected=1)
    rater.rate("usage.raw", outbox, records, is_backfill=False)
    rejected = [r for r in outbox.rejected if r.reason == "unreadable_batch"]
    assert [split_position(r.position)[0] for r in rejected] == [1, 2, 3]
    assert rejected[0].value_length == len(bomb) - 61
    assert rejected[0].is_withheld, "it may be the private tenant's"
    said = "the batch cannot be read: it has more than 32 MiB, decompressed: publish smaller batches"
    assert {r.detail for r in rejected} == {said}
    assert outbox.next_offset == 5


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_that_is_damaged_says_how(codec: str) -> None:
    damaged = batch([Raw(b"[]")], codec, encode=lambda _: b"junk" * 40)
    [record] = Batches("usage.raw/0", at(0, damaged), (), 0).take(9)
    assert isinstance(record, UnreadableRecord)
    assert record.fault.startswith(f"the batch cannot be read: it is no {codec}: ")


def _without_end(dropped: int, data: bytes) -> bytes:
    return data[:-dropped]


def test_a_batch_that_ends_too_early_says_so() -> None:
    for dropped, said in ((20, "a record is longer than its batch"), (1000, "it ends in the middle of a record")):
        cut = batch([Raw(b"[]" * 50)], encode=partial(_without_end, dropped))
        [record] = Batches("usage.raw/0", at(0, cut), (), 0).take(9)
        assert isinstance(record, UnreadableRecord)
        assert record.fault == f"the batch cannot be read: {said}"


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_the_client_is_kept_from_decompressing_what_is_too_large(codec: str) -> None:
    encode = lz4_encode if codec == "lz4" else None
    before = at(0, batch([Raw(b"{}")] * 2, codec, encode=encode))
    bomb = at(2, batch([Raw(bytes(CLIENT_BYTES_MAX))], codec, encode=encode))
    given, _ = for_client(before + bomb + before, ROOM)
    assert given.startswith(before)
    batches = MemoryRecords(given)
    assert batches.next_batch().validate_crc()
    refused = batches.next_batch()
    assert refused.base_offset == 2
    assert not refused.validate_crc(), "the client refuses it before it looks into it"
    assert not batches.has_next()


def test_bombs_are_seen_without_being_decompressed_and_never_taken_apart_whole() -> None:
    zeros = at(0, zstd_bomb(1 << 30))
    headers = at(0, header_bomb(15_000_000))
    for bomb in zeros, headers:
        assert len(bomb) < 40_000
        assert len(for_client(bomb, ROOM)[0]) == 61
    assert [type(record) for record in read(zeros)] == [UnreadableRecord]
    [record] = read(headers)
    assert len(record.headers) == HEADERS_MAX + 1
    [(rejected, _)] = decode_record(record.value, record.headers)
    assert isinstance(rejected, EventRejected)
    assert rejected.reason == "too_many_headers"


def test_many_bombs_are_read_a_few_at_a_time() -> None:
    batches = Batches("usage.raw/0", b"".join(at(place, zstd_bomb(1 << 25)) for place in range(20)), (), 0)
    taken: list[list[int]] = []
    while not batches.is_over:
        taken.append([record.offset for record in batches.take(1_000)])
    assert [offset for piece in taken for offset in piece] == list(range(20))
    assert max(map(len, taken)) <= BATCHES_AT_ONCE


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_not_too_large_stays_as_it_is(codec: str) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    words = [dice.randbytes(9) for _ in range(50)]
    encode = lz4_encode if codec == "lz4" else None
    for size in [*range(0, 200, 17), 5_000, 100_000, 1_000_000]:
        values = [b"".join(dice.choices(words, k=size // 9)), b"x" * size, bytes(size), dice.randbytes(size)]
        data = batch([Raw(value) for value in values], codec, encode=encode)
        given, tried = for_client(data, ROOM)
        assert given == data
        assert for_client(data[:-1], ROOM) == (data[:-1], 0), "what is cut off is not looked at"
        if tried:
            assert for_client(data * 3, tried) == (data * 2, 2 * tried), "what is left comes with the next fetch"
    largest = batch([Raw(bytes(CLIENT_BYTES_MAX - 100))], codec, encode=encode)
    assert for_client(largest, ROOM)[0] == largest


def test_offsets_are_those_that_the_broker_gave() -> None:
    data = at(10, batch([Raw(b"a", delta=5), Raw(b"b", delta=-70), Raw(b"c", delta=5)]))
    assert [(record.offset, record.value) for record in read(data)] == [(10, b"a"), (11, b"b"), (12, b"c")]


def test_what_compaction_or_a_transaction_leaves_out_is_passed() -> None:
    kept = at(20, batch([Raw(b"a"), Raw(b"b", delta=3)], last_delta=7))
    batches = Batches("usage.raw/0", kept, (), 20)
    assert [record.offset for record in batches] == [20, 23]
    assert batches.next_offset == 28

    log = b"".join(
        [
            at(0, batch([Raw(b"kept")], producer_id=7, attributes=0x10)),
            at(1, batch([Raw(COMMITTED, key=b"\0\0\0\1")], producer_id=7, attributes=0x30)),
            at(2, batch([Raw(b"aborted")], producer_id=7, attributes=0x10)),
            at(3, batch([Raw(b"another's")], producer_id=8, attributes=0x10)),
            at(4, batch([Raw(b"plain")], producer_id=7)),
            at(5, batch([Raw(ABORTED, key=b"\0\0\0\0")], producer_id=7, attributes=0x30)),
            at(6, batch([Raw(b"kept too")], producer_id=7, attributes=0x10)),
            at(7, batch([Raw(COMMITTED, key=b"\0\0\0\1")], producer_id=7, attributes=0x30)),
        ]
    )
    batches = Batches("usage.raw/0", log, [(7, 2)], 0)
    assert [record.value for record in batches] == [b"kept", b"another's", b"plain", b"kept too"]
    assert batches.next_offset == 8


def test_a_damaged_batch_stops_the_reader_before_anything_of_it_is_given_out() -> None:
    good = at(0, batch([Raw(b"{}")]))
    hurt = bytearray(at(1, batch([Raw(b"{}")])))
    hurt[-1] ^= 1
    found = Batches("usage.raw/0", good + bytes(hurt), (), 0)
    assert next(found).offset == 0
    with pytest.raises(BatchDamaged, match=r"usage\.raw/0: the batch at offset 1 does not match its checksum"):
        next(found)
    hurt[16:17] = b"\1"
    with pytest.raises(BatchDamaged, match="message format 1"):
        read(bytes(hurt))


def test_random_damage_behind_a_good_checksum_never_raises_and_loses_no_offset() -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    plain = batch([Raw(b"{}" * 9, ((b"name", b"value"),)) for _ in range(5)])[61:]
    for codec in [*CODECS] * 100:

        def encode(_: bytes, codec: str = codec) -> bytes:
            body = bytearray(plain if codec == "none" else batch([Raw(b"{}")] * 5, codec)[61:])
            for _change in range(3):
                body[dice.randrange(len(body))] = dice.randrange(256)
            return bytes(body)

        records = read(at(5, batch([Raw(b"{}")] * 5, codec, encode=encode)))
        assert [record.offset for record in records] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("offsets", "is_whole"),
    [([5, 6, 7], True), ([5, 7], False), ([6, 7], False), ([5, 6], False), ([5, 9, 7], False), ([5, 6, 7, 7], False)],
)
def test_offsets_that_do_not_follow_each_other_are_seen(offsets: list[int], is_whole: bool) -> None:
    assert is_seamless([SimpleNamespace(offset=offset) for offset in offsets], 5, 8) is is_whole
