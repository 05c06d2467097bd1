"""What live counters cost: memory, state, and how long a restart takes.

A counter is one (tenant, provider, model, currency) in one hour or in one day, or one period of one budget. They are
filled by packs written straight into `usage.priced`, as an importer's rater would have written them, so that a million
of them do not need a million events to be rated first. Of `usage.backfill`: those raise no alerts.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

from aiokafka import AIOKafkaProducer

from meterstream.deploy.bench.cpu import queued_seconds, rss_bytes
from meterstream.deploy.bench.live import AGGREGATOR, detail, until_folded
from meterstream.deploy.bench.process import POLL_S, Child
from meterstream.deploy.bench.results import StateFigures
from meterstream.deploy.bench.stages import PATIENCE_S, Bench, start
from meterstream.producers.simulate import MODELS
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.metrics import Metric
from meterstream.schema.pack import PACK_ROWS_MAX, RowTuple, encode_pack
from meterstream.schema.position import SourcePartition
from meterstream.schema.topics import AGGREGATOR_STATE, BACKFILL, PRICED, partition_of, partitions_of, source_ids

ROWS_MIN: Final = 100_000
"""Of a step: so that state is written in the course of it."""
COUNTERS_A_PAIR: Final = 2
"""The hour and the day of a tenant's model."""
_LIVE: Final = re.compile(r"live: partitions ([\d,]+); (\d+) records read again in ([\d.]+) s")


class Filler:
    """Rows for `usage.priced` in packs, one after the other over tenants and models."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._source = SourcePartition(source_ids()[BACKFILL], 0)
        self._next = dict.fromkeys(range(partitions_of(PRICED)), 0)
        self._ids = count(1)

    async def fill(self, pairs: int) -> int:
        """Each of so many pairs of tenant and model gets a row, and more until there are ROWS_MIN; -> rows."""
        now = datetime.now(UTC) - timedelta(seconds=1)
        rows: dict[int, list[RowTuple]] = {number: [] for number in self._next}
        sent = 0
        async with AIOKafkaProducer(
            **self._bench.broker.client_options, enable_idempotence=True, compression_type="zstd", linger_ms=5,
            max_request_size=4_194_304, max_batch_size=1_000_000,
        ) as producer:  # fmt: skip
            for turn in range(max(pairs, ROWS_MIN)):
                tenant, model = divmod(turn % pairs, len(MODELS))
                name = f"filled-{tenant:06d}"
                number = partition_of(name)
                rows[number].append(self._row(number, name, model, now))
                if len(rows[number]) == PACK_ROWS_MAX:
                    sent += await self._send(producer, number, rows[number], now)
            for number in rows:
                sent += await self._send(producer, number, rows[number], now)
            await producer.flush()
        return sent

    def _row(self, number: int, tenant: str, model: int, now: datetime) -> RowTuple:
        unique = next(self._ids)
        kind = MODELS[model]
        position = self._next[number]
        self._next[number] += 1
        return (
            position, unique.to_bytes(16, "big"), 0, tenant, str(unique), "bench/filled", now, now, kind.provider,
            kind.model, kind.operation, "project-1", "user-1", "", "ok", 200, 300, "priced", 1, "USD", 1_000_000,
            100, 50, 0, 0, 0,
        )  # fmt: skip

    async def _send(self, producer: AIOKafkaProducer, number: int, rows: list[RowTuple], now: datetime) -> int:
        if not rows:
            return 0
        size, first = len(rows), self._next[number] - len(rows)
        value = encode_pack(self._source, first, first + size - 1, rows, int(now.timestamp() * 1000))
        await producer.send(PRICED, value, partition=number)
        rows.clear()
        return size


async def live_state(bench: Bench) -> list[StateFigures]:
    """For each number of counters that was asked for, ascending. Raises MeterstreamError."""
    filler = Filler(bench)
    figures = []
    for counters in sorted(bench.options.counters):
        rows = await filler.fill(max(1, counters // COUNTERS_A_PAIR))
        figures.append(await _measured(bench, rows))
        bench.say(
            f"{figures[-1].counters:,} live counters: all equal; live {figures[-1].start_s:.1f} s after its start"
        )
    return figures


async def _measured(bench: Bench, rows: int) -> StateFigures:
    state_start = await bench.broker.ends(AGGREGATOR_STATE, partitions_of(AGGREGATOR_STATE))
    async with start(bench, AGGREGATOR) as role:
        await until_folded(bench, role, events=rows, watched=[role])
        rss = rss_bytes(role.pid)
        sent = detail(bench, role)[Metric.AGGREGATOR_SENT_TOTAL]
        await role.stop()
    compared = await bench.truth.check()
    written = [size async for _, size in _state_records(bench, state_start)]
    compacted = dict([item async for item in _state_records(bench, dict.fromkeys(state_start, 0))])
    began = time.monotonic()
    async with start(bench, AGGREGATOR) as role:
        start_s = await _until_live(role, partitions_of(PRICED), began)
        queued_s, rss_restarted = queued_seconds(role.pid), rss_bytes(role.pid)
        cpu_s = (await role.stop()).cpu_s
        reread, load_s = _loaded(role.output())
    return StateFigures(
        counters=compared.counters,
        rows=rows,
        rss_bytes=rss,
        rss_restarted_bytes=rss_restarted,
        state_bytes_a_row=sum(written) / rows,
        state_bytes_a_record=sent.get("state_bytes", 0) / max(1, sent.get("state", 0)),
        changelog_bytes=sum(compacted.values()),
        start_s=start_s,
        queued_s=queued_s,
        load_s=load_s,
        reread_records=reread,
        restart_cpu_s=cpu_s,
    )


async def _state_records(bench: Bench, begin: dict[int, int]) -> AsyncIterator[tuple[bytes, int]]:
    """(key, bytes of key and value) of each record of the state from there on, before compression."""
    end = await bench.broker.ends(AGGREGATOR_STATE, partitions_of(AGGREGATOR_STATE))
    async for _, records in bench.broker.read(AGGREGATOR_STATE, begin, end):
        for record in records:
            yield record.key, len(record.key) + len(record.value or b"")


async def _until_live(role: Child, partitions: int, began: float) -> float:
    """Seconds from its start until its log says that so many partitions are live: in step with the topic's end."""
    while True:
        role.check_alive()
        lines = [match for line in role.output() if (match := _LIVE.search(line))]
        if sum(len(match[1].split(",")) for match in lines) >= partitions:
            return time.monotonic() - began
        if time.monotonic() - began > PATIENCE_S:
            raise MeterstreamError(f"{role.name} is not live after {PATIENCE_S:.0f} s")
        await asyncio.sleep(POLL_S)


def _loaded(lines: list[str]) -> tuple[int, float]:
    """-> (records read again, seconds for loading the state and reading them)."""
    found = [match for line in lines if (match := _LIVE.search(line))]
    return sum(int(match[2]) for match in found), sum(float(match[3]) for match in found)
