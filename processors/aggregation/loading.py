"""A partition as it was stored and as the log goes on: what comes before delivery, and where it left a hole."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, NamedTuple

from aiokafka.structs import ConsumerRecord

from meterstream.processors.aggregation import checkpoint, loss
from meterstream.processors.aggregation.budgets import Rules, counted_from
from meterstream.processors.aggregation.fold import Partition
from meterstream.processors.aggregation.reread import LogReader, gather
from meterstream.schema import topics
from meterstream.schema.errors import MeterstreamError, OffsetOutOfRange
from meterstream.schema.pack import KIND_HEADER, Coverage, Pack, decode_coverage, decode_pack

log = logging.getLogger(__name__)


class _Preloaded(NamedTuple):
    partition: Partition
    state_end: int
    """The state topic's, when its records were read."""


class LostState(NamedTuple):
    """A partition's stored state, which holds everything before `offset`; what follows is not in the log."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


def lost_states(text: str) -> list[LostState]:
    """'3:1200,7:0', as `Settings.aggregator_bootstrap` lets it pass; none of ''."""
    return [LostState(*map(int, part.split(":"))) for part in text.split(",") if part]


class Loader:
    """Makes partitions out of stored buckets, and reads the log into them."""

    def __init__(
        self,
        reader: LogReader,
        state: LogReader,
        store: Callable[[int, bytes, bytes | None], Awaitable[Any]],
        rules: Callable[[], Awaitable[Rules]],
        *,
        accepted: Collection[LostState],
    ) -> None:
        """`state` reads the state topic; `store` writes one (partition, key, value) of it, its result is the broker's
        acknowledgement; `rules` gives those that hold now: a state may name a version that was made a moment ago.

        `accepted`: a person has said of these states that what follows them in the log is lost. A state that has gone
        on since is another one.
        """
        self.reading = asyncio.Lock()
        """Held while the log is read again: one range at a time."""
        self.records_read = 0
        """Of the log, so far."""
        self._reader = reader
        self._state = state
        self._store = store
        self._rules = rules
        self._accepted = frozenset(accepted)
        self._preloaded: dict[int, _Preloaded] = {}
        names = topics.source_names()
        self._known_sources = frozenset(names)
        self._silent_sources = frozenset(number for number, name in names.items() if name == topics.BACKFILL)
        self._retired_sources = frozenset(topics.retired_source_ids())

    async def preload(self, is_over: Callable[[], bool]) -> None:
        """Begins to load every partition before anybody knows which are ours: joining the group takes over a second.

        What it has not done when `is_over` is left to whoever needs it; so is everything where something is wrong: it
        may be in somebody else's partition. Raises aiokafka's errors.
        """
        async with self.reading:
            try:
                await self._preload(is_over)
            except MeterstreamError as error:
                log.info("nothing is loaded ahead: %s", error)
                self._preloaded.clear()

    async def _preload(self, is_over: Callable[[], bool]) -> None:
        numbers = range(topics.partitions_of(topics.AGGREGATOR_STATE))
        state_ends = await self._state.ends(numbers)
        stored = await self._stored(state_ends)
        rules = await self._rules()
        begins, ends = await self._reader.begins(numbers), await self._reader.ends(numbers)
        for number in numbers:
            if is_over():
                return
            partition = self._from_state(number, stored, rules)
            if partition.low_offset >= begins[number]:
                partition.next_offset = max(partition.next_offset, begins[number])
                partition.use(rules)
                self._preloaded[number] = _Preloaded(partition, state_ends[number])
            await asyncio.sleep(0)
        await self.catch_up([(each.partition, ends[number]) for number, each in self._preloaded.items()], is_over)

    async def restore(self, numbers: Collection[int]) -> dict[int, Partition]:
        """The partitions as they were stored. Raises OffsetOutOfRange, RecordUnreadable, aiokafka's errors."""
        state_ends, begins = await self._state.ends(numbers), await self._reader.begins(numbers)
        # Those of which nobody has stored anything since. They are ahead of their buckets: what is new in the rules
        # begins with a cut.
        ahead = {
            number: each.partition
            for number in numbers
            if (each := self._preloaded.get(number))
            and each.state_end == state_ends[number]
            and each.partition.low_offset >= begins[number]
        }
        self._preloaded.clear()
        stored = await self._stored({number: state_ends[number] for number in numbers if number not in ahead})
        rules = await self._rules()
        loaded = dict(ahead)
        for number in numbers:
            if number not in ahead:
                loaded[number] = self._from_state(number, stored, rules)
                await asyncio.sleep(0)  # a large state takes a second
        lost = [LostState(n, each.low_offset) for n, each in sorted(loaded.items()) if each.low_offset < begins[n]]
        if not self._accepted.issuperset(lost):
            raise _explained(lost, begins)
        for number, _ in lost:
            await self._accept_loss(number, stored, begins[number])
            partition = self._from_state(number, stored, rules)
            # What was published of a state that is not continued.
            partition.gone = sorted(set(loaded[number].windows()) - set(partition.windows()))
            loaded[number] = partition
        for number, partition in loaded.items():
            # From the log's beginning at the earliest: fewer ids are known then than could be, no more.
            partition.next_offset = max(partition.next_offset, begins[number])
        gc.freeze()  # what was loaded stays: looking through it again and again finds nothing
        for number, partition in loaded.items():
            if number not in ahead:
                partition.use(rules)
        return loaded

    async def catch_up(
        self, targets: Collection[tuple[Partition, int]], is_over: Callable[[], bool] = lambda: False
    ) -> None:
        """Reads the log up to these offsets into the same fold, or until `is_over`. `reading` is held."""
        ranges = {partition.number: (partition.next_offset, end) for partition, end in targets}
        partitions = {partition.number: partition for partition, _ in targets}
        async with aclosing(self._reader.read(ranges)) as pieces:
            async for records in pieces:
                _fold(partitions[records[0].partition], records)
                self.records_read += len(records)
                if is_over():
                    return

    async def _stored(self, ends: Mapping[int, int]) -> dict[bytes, bytes]:
        """The newest record of each key before these ends of the state topic's partitions."""
        if not ends:
            return {}
        begins = await self._state.begins(ends)
        stored: dict[bytes, bytes] = {}
        async with aclosing(self._state.read({number: (begins[number], end) for number, end in ends.items()})) as all_:
            async for records in all_:
                for record in records:
                    if record.value is None:
                        stored.pop(record.key, None)
                    else:
                        stored[record.key] = record.value
        return stored

    def _from_state(self, number: int, stored: Mapping[bytes, bytes], rules: Rules) -> Partition:
        with _no_collection():
            partition = checkpoint.restore(
                number,
                checkpoint.choose(stored, number),
                rules,
                known_sources=self._known_sources,
                silent_sources=self._silent_sources,
                retired_sources=self._retired_sources,
            )
        partition.stale_keys = checkpoint.stale_keys(stored, number, len(partition.buckets))
        return partition

    async def _accept_loss(self, number: int, stored: dict[bytes, bytes], begin: int) -> None:
        """Stores every bucket without what is lost, before anything is counted on it and sent; also in `stored`."""
        before = checkpoint.choose(stored, number)
        offset = loss.resumes_at(before, begin)
        sent_ms = (
            await self._reader.first_time_ms(number, offset)
            if (await self._reader.ends([number]))[number] > offset
            else time.time_ns() // 1_000_000
        )
        after = loss.after_loss(before, begin, counted_from(sent_ms))
        log.warning("%s/%d: goes on at offset %d; what may lack events is partial", topics.PRICED, number, offset)
        for records in loss.steps(number, before, after):
            await asyncio.gather(*[self._store(number, key, value) for key, value in records])
            stored |= records


def _explained(lost: Sequence[LostState], begins: Mapping[int, int]) -> OffsetOutOfRange:
    number, offset = lost[0]
    return OffsetOutOfRange(
        f"{topics.PRICED}/{number}: the state holds everything before offset {offset}, but the topic begins at "
        f"{begins[number]}: what lies between is not there any more (partitions in which that is so: {len(lost)}). To "
        "go on from that state, with every window and period that may lack something marked partial, set "
        f"METERSTREAM_AGGREGATOR_BOOTSTRAP={','.join(map(str, lost))} (it accepts these states, and no later loss); "
        "Postgres has all of it. See docs/operate.md"
    )


def _fold(partition: Partition, records: Sequence[ConsumerRecord[Any, Any]]) -> None:
    for record in records:
        if record.offset < partition.next_offset:
            continue
        if record.offset < partition.low_offset:
            gather(partition, record)
        else:
            partition.apply(record.offset, decode(record.headers, record.value))


def decode(headers: Iterable[tuple[str, bytes]] | Mapping[str, bytes] | None, value: bytes) -> Pack | Coverage:
    """One record of `usage.priced`. Raises RecordUnreadable."""
    names = headers if isinstance(headers, Mapping) else [name for name, _ in headers or ()]
    return decode_coverage(value) if KIND_HEADER in names else decode_pack(value)


@contextmanager
def _no_collection() -> Iterator[None]:
    """While a state is loaded nothing becomes garbage: collecting would take three quarters of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
