"""Tenant -> partition, and rows -> packs with the range of positions that they cover. Pure.

The partition of a tenant is crc32 (IEEE) of its UTF-8 name modulo the partition count of `usage.priced`:
everything of a tenant is in one place. Any consumer may rely on it.

One `Outbox` belongs to one source partition. It hands out, for each output partition, packs and coverage
whose ranges follow each other without a gap, from the position at which reading began.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from meterstream.schema.pack import PACK_BYTES_MAX, PACK_ROWS_MAX, Covered, join_pack
from meterstream.schema.position import SourcePartition, last_before, position_of
from meterstream.schema.rejection import Rejected, encode_rejected

_TENANTS_REMEMBERED_MAX = 100_000
OUTBOX_REJECTED_MAX = 2_000
OUTBOX_ROWS_MAX = 20_000
LINGER_S_A_PACK = 0.0016
LINGER_MAX_TIMES = 5


class Router:
    """tenant -> partition, remembered for the tenants seen most recently."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._known: dict[str, int] = {}

    def partition_of(self, tenant: str) -> int:
        """Stable over processes, versions and machines."""
        partition = self._known.get(tenant)
        if partition is None:
            if len(self._known) >= _TENANTS_REMEMBERED_MAX:
                self._known.clear()
            partition = self._known[tenant] = crc32(tenant.encode()) % self.partitions
        return partition


def linger_s(least_s: float, packs: int) -> float:
    """How long rows wait for company, where the last round has sent so many packs that were not full.

    A record costs each reader more than the rows in it do. So the more packs a round makes, the longer the next one
    gathers: some 600 packs a second, and no row waits more than LINGER_MAX_TIMES the least.
    """
    return min(max(least_s, packs * LINGER_S_A_PACK), least_s * LINGER_MAX_TIMES)


class Packed(NamedTuple):
    """A record for `usage.priced`."""

    partition: int
    value: bytes


class Outbox:
    """What one source partition still has to send. Bounded by the caller, who rates nothing more while it is full."""

    def __init__(
        self,
        source: SourcePartition,
        *,
        start_offset: int | None,
        priced: int,
        rejected: int,
        next_offset: int | None = None,
    ) -> None:
        """`start_offset`: what lies before is covered already; None: nothing is. Reading begins there, or later at
        `next_offset`, where what lies between is given up: it is covered without having been read.

        `priced` and `rejected` are the partition counts of the two output topics.
        """
        self.source = source
        self.next_offset = start_offset or 0 if next_offset is None else next_offset
        self.watermark_ms = 0
        """Highest append time of what has been decided here."""
        first = 0 if start_offset is None else position_of(start_offset)
        self._next_priced = [first] * priced
        self._next_rejected = [first] * rejected
        self._rows: list[list[bytes]] = [[] for _ in range(priced)]
        self._positions: list[list[int]] = [[] for _ in range(priced)]
        """Of the rows."""
        self.waiting: set[int] = set()
        """Priced partitions that have rows to send."""
        self.rejected: list[Rejected] = []

    def add(self, partition: int, position: int, row: bytes) -> None:
        """An encoded row for a priced partition; rows come in order of position."""
        rows = self._rows[partition]
        if not rows:
            self.waiting.add(partition)
        rows.append(row)
        self._positions[partition].append(position)

    @property
    def is_full(self) -> bool:
        """Whether what waits must be sent before more is decided."""
        return len(self.rejected) >= OUTBOX_REJECTED_MAX or sum(map(len, self._rows)) >= OUTBOX_ROWS_MAX

    def advance(self, next_offset: int, watermark_ms: int) -> None:
        """Everything before `next_offset` has been decided."""
        self.next_offset = next_offset
        self.watermark_ms = max(self.watermark_ms, watermark_ms)

    def cut(self, partition: int, *, full_only: bool = False) -> list[Packed]:
        """The rows that wait for one priced partition, in packs; the last one covers all that is decided.

        With `full_only` a rest that fills no pack goes on waiting.
        """
        rows, positions = self._rows[partition], self._positions[partition]
        decided = last_before(self.next_offset)
        packs = []
        begin = 0
        while begin < len(rows):
            end = _end_of_pack(rows, begin)
            if full_only and end == len(rows) and end - begin < PACK_ROWS_MAX:
                break
            hi = decided if end == len(rows) else positions[end - 1]
            lo = self._next_priced[partition]
            packs.append(Packed(partition, join_pack(self.source, lo, hi, rows[begin:end], self.watermark_ms)))
            self._next_priced[partition] = hi + 1
            begin = end
        if begin:
            del rows[:begin], positions[:begin]
            if not rows:
                self.waiting.discard(partition)
        return packs

    def take_rejected(self) -> list[Packed]:
        """The rejected records, for the partition of `usage.rejected` that this source partition uses."""
        partition = self.source.partition % len(self._next_rejected)
        records = [Packed(partition, encode_rejected(rejected)) for rejected in self.rejected]
        self.rejected = []
        return records

    def cover_priced(self, partition: int) -> Covered | None:
        """What to say of this source partition in a coverage record; None when nothing is new.

        Call it after `cut`: coverage says that there are no more rows up to here.
        """
        assert not self._rows[partition], "coverage before the rows that it covers"
        return self._cover(self._next_priced, partition)

    def cover_rejected(self, partition: int) -> Covered | None:
        """As `cover_priced`, for `usage.rejected`; call it after `take_rejected`."""
        assert not self.rejected, "coverage before the rejected records that it covers"
        return self._cover(self._next_rejected, partition)

    def _cover(self, next_positions: list[int], partition: int) -> Covered | None:
        lo, hi = next_positions[partition], last_before(self.next_offset)
        if hi < lo:
            return None
        next_positions[partition] = hi + 1
        return Covered(self.source.source_id, self.source.partition, lo, hi, self.watermark_ms)


def _end_of_pack(rows: list[bytes], begin: int) -> int:
    """Where the pack ends that begins there: as many rows as it may have, and at least one."""
    part = rows[begin : begin + PACK_ROWS_MAX]
    size = sum(map(len, part))
    while size > PACK_BYTES_MAX and len(part) > 1:
        size -= len(part.pop())
    return begin + len(part)
