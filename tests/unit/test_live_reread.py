"""Reading the log again for its ids only: what is known afterwards is what a reader of everything knows."""

from __future__ import annotations

from random import Random

from aiokafka.structs import ConsumerRecord

from meterstream.processors.aggregation.duplicates import RECORDS_KEPT, ROWS_KEPT, SeenClaims
from meterstream.processors.aggregation.fold import Bucket, Partition
from meterstream.processors.aggregation.reread import gather
from meterstream.schema.pack import (
    COVERAGE_HEADERS,
    Covered,
    decode_coverage,
    decode_pack,
    encode_coverage,
    encode_pack,
)
from meterstream.schema.position import SourcePartition
from tests.unit.test_live_fold import EPOCH

SOURCE = SourcePartition(1, 0)
ROWS = 300
PACKS = ROWS_KEPT // ROWS * 3 // 2  # more than are remembered


def test_ids_alone_leave_the_same_behind_as_whole_rows() -> None:
    random = Random(5)
    claims = [random.randbytes(16) for _ in range(PACKS * ROWS // 2)]  # every id comes twice, far apart or near
    by_row, by_id = _partition(), _partition()
    position = 0
    headers: tuple[tuple[str, bytes], ...]
    for offset in range(PACKS):
        if offset % 7 == 3:
            value, headers = encode_coverage([Covered(1, 0, position, position, offset)]), COVERAGE_HEADERS
            position += 1
            by_row.apply(offset, decode_coverage(value))
        else:
            rows = [_row(position + place, random.choice(claims)) for place in range(ROWS)]
            value, headers = encode_pack(SOURCE, position, position + ROWS - 1, rows, offset + 1), ()
            position += ROWS
            by_row.apply(offset, decode_pack(value))
        gather(by_id, _record(offset, value, headers))
        assert by_id.next_offset == by_row.next_offset
        assert by_id.claims.horizon == by_row.claims.horizon
        assert by_id.claims.oldest_appended_ms == by_row.claims.oldest_appended_ms
    assert by_id.claims.horizon.rows > 0
    again = list(dict.fromkeys(claims))
    assert by_id.claims.add(PACKS, 0, again) == by_row.claims.add(PACKS, 0, again)


def test_where_little_flows_a_start_reads_a_bounded_number_of_records() -> None:
    seen = SeenClaims()
    first, later = b"first", b"later"
    seen.add(0, 1, [first])
    for offset in range(1, RECORDS_KEPT + 1):
        seen.add(offset, 1, [later] if offset == RECORDS_KEPT // 2 else [])
        assert seen.knows(first)
        assert seen.horizon.offset == 0
    seen.add(RECORDS_KEPT + 1, 1, [])
    assert (seen.knows(first), seen.knows(later), len(seen)) == (False, True, 1)
    assert seen.horizon == (RECORDS_KEPT // 2, 1)
    assert seen.add(RECORDS_KEPT + 2, 1, [later]) == [True]


def _partition() -> Partition:
    return Partition(0, known_sources={1}, buckets=[Bucket(PACKS + 1)])


def _record(offset: int, value: bytes, headers: tuple[tuple[str, bytes], ...]) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("usage.priced", 0, offset, 0, 0, None, value, 0, 0, len(value), headers)


def _row(position: int, claim: bytes) -> tuple[object, ...]:
    texts = ("tenant", "id", "source", EPOCH, EPOCH, "openai", "gpt-4o", "chat", "", "", "", "ok")
    return (position, claim, 0, *texts, None, None, "priced", 1, "USD", 1, 1, 1, 0, 0, 0)
