"""What is covered, by the code of rater and sink together: raters die, wake up and judge differently, clocks step back.

Nothing is missed or taken twice, no repeat is taken for a stranger; and when the source topic is made anew, no event of
it is skipped without an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterstream.processors.rating.route import Outbox
from meterstream.schema import coverage
from meterstream.schema.coverage import NOTHING, UNKNOWN_MS, Prefix, Prefixes, milliseconds
from meterstream.schema.errors import CoverageGap, TopicMadeAnew, UnknownSource
from meterstream.schema.pack import PACK_ROWS_MAX, Covered, Pack, RowTuple, decode_coverage, encode_coverage, encode_row
from meterstream.schema.position import SourcePartition, position_of
from meterstream.schema.rejection import reject
from meterstream.sinks.postgres.batch import Item, Taken, decode, judge
from meterstream.sinks.postgres.fence import Owned

SOURCE = SourcePartition(1, 3)
PRICED = 2
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEGIN_MS = 1_795_000_000_000


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 7)), max_size=30))
def test_every_position_is_new_once_however_often_ranges_come_again(sends: list[tuple[int, int]]) -> None:
    """From any point they go back, cut differently and send again."""
    prefixes: Prefixes = {}
    taken: list[int] = []
    for back, length in sends:
        lo = max(0, prefixes.get(SOURCE, NOTHING).position + 1 - back)
        before = coverage.advance(prefixes, SOURCE, lo, lo + length - 1, 1, {1})
        taken += [
            position for position in range(lo, lo + length) if not coverage.is_repeat(before, SOURCE, position, 1)
        ]
    assert taken == list(range(prefixes.get(SOURCE, NOTHING).position + 1))


@pytest.mark.parametrize(("reached", "lo"), [(None, 1), (0, 2), (10, 12)])
def test_a_hole_is_a_gap_and_changes_nothing(reached: int | None, lo: int) -> None:
    prefixes = {} if reached is None else {SOURCE: Prefix(reached, 1)}
    before = dict(prefixes)
    with pytest.raises(CoverageGap):
        coverage.advance(prefixes, SOURCE, lo, lo + 5, 1, {1})
    assert prefixes == before


def test_other_partitions_do_not_fill_a_hole() -> None:
    prefixes = {SourcePartition(1, 2): Prefix(100, 1), SourcePartition(2, 3): Prefix(100, 1)}
    with pytest.raises(CoverageGap):
        coverage.advance(prefixes, SOURCE, 50, 60, 1, {1, 2})


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(UnknownSource, match="source 1 "):
        coverage.advance({}, SOURCE, 0, 1, 1, {2})


def test_a_record_that_was_appended_after_all_that_is_covered_is_no_repeat() -> None:
    before = Prefix(position_of(7, 2), BEGIN_MS)
    assert coverage.is_repeat(before, SOURCE, position_of(7, 2), BEGIN_MS)
    assert not coverage.is_repeat(before, SOURCE, position_of(7, 3), BEGIN_MS + 1)
    with pytest.raises(
        TopicMadeAnew, match="partition 3: what now stands at offset 0 index 0 was appended at 2026-11-"
    ):
        coverage.is_repeat(before, SOURCE, 0, BEGIN_MS + 1)


def test_under_a_retired_number_what_was_made_anew_is_skipped_since_it_comes_again() -> None:
    before = Prefix(position_of(7), BEGIN_MS)
    assert coverage.is_repeat(before, SOURCE, 0, BEGIN_MS + 1, {SOURCE.source_id})
    assert not coverage.is_repeat(before, SOURCE, position_of(8), BEGIN_MS + 1, {SOURCE.source_id})


def test_a_clock_that_steps_back_lowers_no_watermark() -> None:
    prefixes = {SOURCE: Prefix(10, 500)}
    before = coverage.advance(prefixes, SOURCE, 11, 12, 300, {1})
    assert before == Prefix(10, 500)
    assert prefixes == {SOURCE: Prefix(12, 500)}


def test_a_watermark_that_nobody_has_stored_judges_nothing_and_is_learned() -> None:
    prefixes = {SOURCE: Prefix(10, UNKNOWN_MS)}
    before = coverage.advance(prefixes, SOURCE, 5, 10, 500, {1})
    assert coverage.is_repeat(before, SOURCE, 10, 500)
    assert prefixes == {SOURCE: Prefix(10, UNKNOWN_MS)}, "the records up to here may be later ones than this repeat"
    coverage.advance(prefixes, SOURCE, 5, 11, 500, {1})
    assert prefixes == {SOURCE: Prefix(11, 500)}
    coverage.advance(prefixes, SOURCE, 12, 12, UNKNOWN_MS, {1})
    assert prefixes == {SOURCE: Prefix(12, UNKNOWN_MS)}, "a writer of the older version says nothing"


@given(st.dictionaries(st.tuples(st.integers(1, 32767), st.integers(0, 999)), st.integers(-1, 2**63 - 1)))
def test_prefixes_survive_their_json(raw: dict[tuple[int, int], int]) -> None:
    prefixes = {SourcePartition(*source): Prefix(position, 7) for source, position in raw.items()}
    assert coverage.load(coverage.dump(prefixes)) == prefixes


@given(st.integers(0, 4_000_000_000_000))
def test_milliseconds_are_exact(ms: int) -> None:
    assert milliseconds(EPOCH + timedelta(milliseconds=ms)) == ms


# ------------------------------------------------------------------------------------------ the whole, in memory


@dataclass(frozen=True)
class Raw:
    """A raw record: which priced partition its tenant has; `moody`: whether it is rejected depends on the rater."""

    appended_ms: int
    priced: int
    moody: bool


@dataclass
class World:
    """One source partition, its raters, and the sinks' side of PRICED partitions and one of rejected records."""

    raw: list[Raw]
    is_old: bool
    """Raters write packs without a watermark at times, as an older version did."""
    outboxes: list[Outbox] = field(default_factory=list)
    committed: int | None = None
    owned: dict[tuple[str, int], Owned] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    rejected: set[int] = field(default_factory=set)
    strange: set[tuple[str, int]] = field(default_factory=set)
    """Partitions whose sink has stopped."""

    def __post_init__(self) -> None:
        partitions = [("usage.priced", partition) for partition in range(PRICED)] + [("usage.rejected", 0)]
        self.owned = {partition: Owned(1, 0, {}) for partition in partitions}

    def start(self) -> None:
        """A rater begins where the last one has committed; older ones may still be there."""
        self.outboxes.append(Outbox(SOURCE, start_offset=self.committed, priced=PRICED, rejected=1))

    def rate(self, rater: int, records: int) -> None:
        outbox = self.outboxes[rater]
        begin = outbox.next_offset
        part = self.raw[begin : begin + records]
        for offset, raw in enumerate(part, begin):
            at = EPOCH + timedelta(milliseconds=raw.appended_ms)
            if raw.moody and rater % 2:
                outbox.rejected.append(
                    reject(
                        reason="too_old", detail="", topic="usage.raw", source_id=SOURCE.source_id,
                        partition=SOURCE.partition, position=position_of(offset), appended_at=at, value=b"",
                    )
                )  # fmt: skip
            else:
                outbox.add(raw.priced, position_of(offset), encode_row(row(position_of(offset), at)))
        if part:
            outbox.advance(begin + len(part), max(raw.appended_ms for raw in part))

    def send_rows(self, rater: int, partitions: int, *, full_only: bool = False) -> None:
        """Of the first so many priced partitions; the rejected ones follow the last."""
        outbox = self.outboxes[rater]
        for partition in range(min(partitions, PRICED)):
            for packed in outbox.cut(partition, full_only=full_only):
                pack = decode("usage.priced", (), packed.value)
                if self.is_old and rater % 3 == 1:
                    assert isinstance(pack, Pack)
                    pack = msgspec.structs.replace(pack, watermark_ms=UNKNOWN_MS)
                self.store(("usage.priced", partition), pack)
        if partitions > PRICED:
            for record in outbox.take_rejected():
                self.store(("usage.rejected", 0), decode("usage.rejected", (), record.value))

    def mark(self, rater: int, partitions: int) -> None:
        """Rows, coverage of so many output partitions, and the commit if all have it; else the rater dies."""
        self.send_rows(rater, PRICED + 1)
        outbox = self.outboxes[rater]
        for partition in range(min(partitions, PRICED)):
            self.cover(("usage.priced", partition), outbox.cover_priced(partition))
        if partitions > PRICED:
            self.cover(("usage.rejected", 0), outbox.cover_rejected(0))
            if rater == len(self.outboxes) - 1:  # Kafka takes no commit of one that has been replaced
                self.committed = outbox.next_offset
        elif rater == len(self.outboxes) - 1:
            self.start()

    def cover(self, partition: tuple[str, int], part: Covered | None) -> None:
        if part is not None:
            self.store(partition, decode_coverage(encode_coverage([part])))

    def store(self, partition: tuple[str, int], item: Item) -> None:
        owned = self.owned[partition]
        if partition in self.strange:
            return
        try:
            batch = judge({partition: Taken(owned.next_offset + 1, [item])}, self.owned, {SOURCE.source_id})
        except TopicMadeAnew:
            self.strange.add(partition)
            return
        (move,) = batch.moves
        stored = coverage.load(coverage.dump(move.covered))
        self.owned[partition] = Owned(owned.epoch, move.next_offset, stored)
        self.rows += [row.position for _, _, row in batch.rows]
        self.rejected |= {record.position for record in batch.rejected}

    def finish(self) -> None:
        """A last rater brings everything to its end."""
        self.start()
        self.rate(len(self.outboxes) - 1, len(self.raw))
        self.mark(len(self.outboxes) - 1, PRICED + 1)


def row(position: int, at: datetime) -> RowTuple:
    return (
        position, bytes(16), 0, "t", f"id-{position}", "s", at, at, "p", "m", "o", "", "", "", "ok", None, None,
        "unpriced", 1, "", None, 0, 0, 0, 0, 0,
    )  # fmt: skip


steps = st.lists(
    st.one_of(
        st.tuples(st.just("rate"), st.integers(0, 9), st.integers(1, 9)),
        st.tuples(st.just("send"), st.integers(0, 9), st.integers(1, PRICED + 1)),
        st.tuples(st.just("mark"), st.integers(0, 9), st.integers(0, PRICED + 1)),
        st.tuples(st.just("start"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@st.composite
def worlds(draw: st.DrawFn, *, with_old: bool = True) -> World:
    """A world of up to 40 records; where old raters are about, the broker's clock does not go back."""
    is_old = with_old and draw(st.booleans())
    moves = st.integers(0, 5) if is_old else st.integers(-5, 5)
    now_ms = BEGIN_MS
    raw = []
    for move, priced, moody in draw(
        st.lists(st.tuples(moves, st.integers(0, PRICED - 1), st.booleans()), min_size=1, max_size=40)
    ):
        now_ms += move
        raw.append(Raw(now_ms, priced, moody))
    return World(raw, is_old)


def live(world: World, schedule: list[tuple[str, int, int]]) -> None:
    world.start()
    for what, who, how_many in schedule:
        rater = len(world.outboxes) - 1 - who % len(world.outboxes)
        match what:
            case "rate":
                world.rate(rater, how_many)
            case "send":
                world.send_rows(rater, how_many)
            case "mark":
                world.mark(rater, how_many)
            case _:
                world.start()


@settings(max_examples=300)
@given(worlds(), steps)
def test_no_repeat_is_taken_for_a_stranger_and_nothing_is_lost(
    world: World, schedule: list[tuple[str, int, int]]
) -> None:
    live(world, schedule)
    world.finish()
    assert not world.strange
    assert len(world.rows) == len(set(world.rows))
    assert set(world.rows) | world.rejected == {position_of(offset) for offset in range(len(world.raw))}
    calm = {position_of(offset) for offset, raw in enumerate(world.raw) if not raw.moody}
    assert calm <= set(world.rows)


@settings(max_examples=300)
@given(worlds(with_old=False), steps, st.data())
def test_of_a_topic_made_anew_nothing_is_skipped_without_an_error(
    world: World, schedule: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    live(world, schedule)
    world.finish()
    stored_before = set(world.rows)
    later_ms = max(raw.appended_ms for raw in world.raw)
    anew = [
        Raw(later_ms + after_ms, priced, moody=False)
        for after_ms, priced in data.draw(
            st.lists(st.tuples(st.integers(1, 20), st.integers(0, PRICED - 1)), min_size=1, max_size=60)
        )
    ]
    world.raw, world.committed, world.outboxes, world.rows = anew, None, [], []
    live(world, data.draw(steps))
    world.finish()
    for partition in range(PRICED):
        if ("usage.priced", partition) not in world.strange:
            wanted = {position_of(offset) for offset, raw in enumerate(anew) if raw.priced == partition}
            assert wanted <= set(world.rows)
    assert not stored_before & set(world.rows)


def test_a_full_pack_claims_no_repeat_that_its_rater_has_not_sent() -> None:
    """A pack that ends before what is decided has the watermark of all that is decided: no evidence against it."""
    raw = [Raw(BEGIN_MS + number, 0, moody=False) for number in range(PACK_ROWS_MAX + 5)]
    world = World(raw, is_old=False)
    world.start()
    world.rate(0, PACK_ROWS_MAX)
    world.send_rows(0, PRICED)
    world.start()
    world.rate(1, len(raw))
    world.send_rows(1, PRICED, full_only=True)
    world.finish()
    assert not world.strange
    assert world.rows == [position_of(offset) for offset in range(len(raw))]
