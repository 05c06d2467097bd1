"""What the aggregator says of itself: how far it is, what a restart would cost, and when that is an alarm."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Any, Final

from meterstream.processors.aggregation.fold import Partition
from meterstream.processors.aggregation.reread import LogReader
from meterstream.schema import topics
from meterstream.schema.health import Health
from meterstream.schema.lag import Lag
from meterstream.schema.metrics import Metric

REREAD_RECORDS_MAX: Final = 2_000_000
"""A restart that would read more than this raises the alarm."""
MARGIN_SHARE_MIN: Final = 0.1
"""The alarm when the oldest state is nearer to the log's start than this share of the log."""
STALL_S: Final = 30.0


class Stalled(Exception):
    """Records wait, and none is delivered."""


class Reporter:
    """Health, about once a second. `lag.follow()` has to run beside it."""

    def __init__(self, health: Health, reader: LogReader, live: Mapping[int, Partition]) -> None:
        """`live`: the partitions that are live at any time, by number."""
        self.lag = Lag(self._ask)
        self._health = health
        self._reader = reader
        self._live = live
        self._place = 0
        self._moved_at = time.monotonic()
        self._begins: Mapping[int, int] = {}
        self._ends: Mapping[int, int] = {}

    async def _ask(self) -> Mapping[tuple[str, int], int]:
        """For the lag, and for the alarms."""
        live = list(self._live)
        self._begins, self._ends = await self._reader.begins(live), await self._reader.ends(live)
        return {(topics.PRICED, number): end for number, end in self._ends.items()}

    def loading(self) -> None:
        """State and log are being read: nobody knows how far it is."""
        self._moved_at = time.monotonic()
        self._health.write("starting")

    def report(
        self, *, is_reading: bool, rows: Tally[str], sent: Tally[str], budgets: int, figures: Mapping[Metric, Any]
    ) -> None:
        """`rows`: of partitions that are not live here any more. `is_reading`: the log, so that no delivery is due.
        `figures`: those of all roles.

        Raises Stalled.
        """
        live = self._live
        next_offsets = {(topics.PRICED, number): each.next_offset for number, each in live.items()}
        lag = self.lag.records(next_offsets)
        self._check_progress(lag, is_reading=is_reading)
        reread = sum(max(0, self._ends.get(number, 0) - reread_from(each)) for number, each in live.items())
        reasons = [reason for reason in (self._alarm(reread), self.lag.trouble) if reason is not None]
        tally = sum((partition.tally for partition in live.values()), rows)
        self._health.write(
            "degraded" if reasons else "running",
            "; ".join(reasons) or None,
            lag,
            **{
                **figures,
                Metric.LAG_SECONDS: self.lag.seconds(next_offsets),
                Metric.AGGREGATOR_PARTITIONS: len(live),
                Metric.AGGREGATOR_ROWS_TOTAL: dict(tally),
                Metric.AGGREGATOR_SENT_TOTAL: dict(sent),
                Metric.AGGREGATOR_BUDGETS: budgets,
                Metric.AGGREGATOR_REREAD_RECORDS: reread,
                Metric.AGGREGATOR_DUPLICATES_HORIZON_SECONDS: _horizon_s(live.values()),
            },
        )

    def _check_progress(self, lag: int | None, *, is_reading: bool) -> None:
        now = time.monotonic()
        place = sum(partition.next_offset for partition in self._live.values())
        if not lag or place != self._place:
            self._place, self._moved_at = place, now
        elif now - self._moved_at > STALL_S and not is_reading:
            raise Stalled(f"{lag} records wait, and nothing was delivered for {STALL_S:.0f} s")

    def _alarm(self, reread: int) -> str | None:
        if reread > REREAD_RECORDS_MAX:
            return f"a restart would read {reread} records again: it takes some seconds for each 100,000"
        for number, partition in self._live.items():
            begin, end = self._begins.get(number, 0), self._ends.get(number, 0)
            if begin and low(partition) - begin < MARGIN_SHARE_MIN * (end - begin):
                return (
                    f"{topics.PRICED}/{number}: the oldest state needs offset {low(partition)}, and the topic begins "
                    f"at {begin}: raise the topic's retention"
                )
        return None


def low(partition: Partition) -> int:
    """The offset up to which the whole state is stored: the log must hold everything after it."""
    return min(bucket.folded for bucket in partition.buckets)


def reread_from(partition: Partition) -> int:
    """The offset from which a restart would read: for the ids it goes further back than for the state."""
    return min(low(partition), partition.claims.horizon.offset)


def _horizon_s(live: Iterable[Partition]) -> int | None:
    """How far back every partition knows ids, in seconds of the log; None where no partition forgets any yet."""
    known = [
        (partition.watermark_ms - partition.claims.oldest_appended_ms) // 1000
        for partition in live
        if partition.claims.oldest_appended_ms is not None and partition.claims.horizon.rows
    ]
    return min(known, default=None)
