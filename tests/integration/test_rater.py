"""The rater on a real broker: nothing lost, nothing twice, whatever the crash; stops where it must."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from meterstream.deploy import topics as broker_topics
from meterstream.deploy.stack import Addresses
from meterstream.processors.rating import rater, service
from meterstream.processors.rating.admit import admit
from meterstream.processors.rating.route import OUTBOX_REJECTED_MAX, Outbox, Packed
from meterstream.schema import topics
from meterstream.schema.catalog import Head, Price, encode_entry
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.event import Event
from meterstream.schema.health import State
from meterstream.schema.ids import uuid7
from meterstream.schema.metrics import Metric
from meterstream.schema.pack import KIND_HEADER, Row, decode_coverage, decode_pack
from meterstream.schema.position import split_position
from meterstream.schema.rejection import Rejected, decode_rejected
from meterstream.schema.settings import Settings
from tests import topic_log

pytestmark = pytest.mark.stack
DEADLINE_S = 100.0


class Crash(Exception):
    """Ends the rater where a test wants it."""


@dataclass
class Told:
    """A health file in memory; `crash_at`: the rater dies once it has decided so many events."""

    crash_at: int | None = None
    reports: list[tuple[str, str | None, int | None, dict[str, Any]]] = field(default_factory=list)

    def write(self, state: State, reason: str | None = None, lag_records: int | None = None, **detail: Any) -> None:
        self.reports.append((state, reason, lag_records, detail))
        if self.crash_at is not None and decided(self) >= self.crash_at:
            raise Crash


@dataclass
class Output:
    """What a consumer that keeps `covered` has of the two output topics."""

    covered: dict[tuple[str, int, int, int], int] = field(default_factory=dict)
    rows: dict[tuple[int, int, int], Row] = field(default_factory=dict)
    rejected: dict[tuple[int, int, int], Rejected] = field(default_factory=dict)
    repeats: int = 0

    def take(self, topic: str, partition: int, headers: Iterable[tuple[str, bytes]], value: bytes) -> None:
        if any(name == KIND_HEADER for name, _ in headers):
            for part in decode_coverage(value).covered:
                self.cover(topic, partition, part.source_id, part.partition, part.lo, part.hi)
        elif topic == topics.PRICED:
            pack = decode_pack(value)
            before = self.cover(topic, partition, pack.source_id, pack.partition, pack.lo, pack.hi)
            for row in pack.rows:
                if row.position > before:
                    self.rows[pack.source_id, pack.partition, row.position] = row
                else:
                    self.repeats += 1
        else:
            rejected = decode_rejected(value)
            self.rejected[rejected.source_id, rejected.partition, rejected.position] = rejected

    def cover(self, topic: str, partition: int, source_id: int, source_partition: int, lo: int, hi: int) -> int:
        key = (topic, partition, source_id, source_partition)
        before = self.covered.get(key, -1)
        assert lo <= before + 1, f"a gap in {key}: {lo} after {before}"
        self.covered[key] = max(before, hi)
        return before


async def read_output(options: dict[str, Any]) -> Output:
    output = Output()
    for record in await topic_log.read(options, topics.PRICED, topics.REJECTED):
        output.take(record.topic, record.partition, record.headers, record.value)
    return output


def event(number: int, **changes: Any) -> bytes:
    now = datetime.now(UTC)
    data = {"provider": "p", "model": "m", "operation": "chat", "usage": {"output_tokens": number}}
    envelope = {
        "specversion": "1.0",
        "type": "meterstream.usage.v1",
        "id": uuid7(now),
        "source": "test",
        "time": now.isoformat(),
        "tenant": f"tenant-{number % 50}",
        "data": data,
    }
    return json.dumps(envelope | changes).encode()


async def publish(options: dict[str, Any], values: Iterable[bytes | None], topic: str = topics.RAW) -> int:
    async with AIOKafkaProducer(**options, acks="all") as producer:
        sends = [
            await producer.send(topic, value, key=str(i).encode(), headers=list(STRUCTURED_HEADERS))
            for i, value in enumerate(values)
        ]
        await asyncio.gather(*sends)
    return len(sends)


@asynccontextmanager
async def running(
    options: dict[str, Any], *, crash_at: int | None = None, **settings: Any
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[None], Told]]:
    """A rater in this process; left running when the block ends: cancel it (a crash) or set the event (a drain)."""
    stop, told = asyncio.Event(), Told(crash_at)
    task = asyncio.create_task(service.run(Settings(**settings), client_options=options, health=told, stop=stop))
    try:
        yield stop, task, told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            if task.done():
                task.result()
                raise AssertionError("the rater ended")
            await asyncio.sleep(0.02)  # a poll with a deadline


def decided(told: Told) -> int:
    return sum(told.reports[-1][3].get(Metric.RATER_EVENTS_TOTAL, {}).values()) if told.reports else 0


@pytest.fixture(scope="module")
async def options(stack: Addresses) -> dict[str, Any]:
    settings = Settings(kafka_bootstrap=stack.kafka_bootstrap)
    await broker_topics.apply(settings)
    return {"bootstrap_servers": stack.kafka_bootstrap}


async def test_every_event_is_decided_once_over_crashes(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await publish(options, [event(i) if i % 10 else b"{broken" for i in range(5000)])
    monkeypatch.setattr(service, "HEALTH_INTERVAL_S", 0.0)  # a report after every batch
    for crash_at in (200, 1200):
        async with running(options, crash_at=crash_at, rater_poll_records_max=20) as (_, task, told):
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(Crash):
                    await task
        assert decided(told) < sent, "the crash came after the work"
        lags = [(lag or 0, detail) for _, _, lag, detail in told.reports if detail.get(Metric.RATER_PARTITIONS) == 8]
        left = {lag + sum(detail[Metric.RATER_EVENTS_TOTAL].values()) for lag, detail in lags}
        assert len(left) == 1, "lag is known as soon as the partitions are"
    async with running(options) as (stop, task, told):
        await until(lambda: _idle(told), task)
        stop.set()
        await task
    assert told.reports[-1][0] == "stopped"
    output = await read_output(options)
    assert len(output.rows) + len(output.rejected) == sent
    assert not set(output.rows) & set(output.rejected)
    assert len(output.rejected) == sent // 10
    assert {rejected.reason for rejected in output.rejected.values()} == {"malformed_json"}
    # Every output partition knows of every record of every source partition.
    ends: dict[int, int] = {}
    for _, source_partition, position in [*output.rows, *output.rejected]:
        ends[source_partition] = max(ends.get(source_partition, 0), split_position(position)[0] + 1)
    for (_, _, source_id, source_partition), covered in output.covered.items():
        if source_id == 1:
            assert covered + 1 == ends[source_partition] << 20


def _idle(told: Told) -> bool:
    if not told.reports:
        return False
    state, _, lag, detail = told.reports[-1]
    return (
        state in ("running", "degraded") and lag == 0 and detail.get(Metric.RATER_PARTITIONS) == 8 and decided(told) > 0
    )


async def test_a_new_price_is_used_without_a_restart_and_named(options: dict[str, Any]) -> None:
    async with running(options) as (stop, task, told):
        await until(lambda: bool(told.reports) and told.reports[-1][3].get(Metric.RATER_PARTITIONS) == 8, task)
        assert told.reports[-1][3][Metric.RATER_PRICE_REVISION] == 0
        price = Price(
            price_id=1, revision=1, provider="p", model="m", unit="output_tokens", currency="USD", per=1, rate="2",
            valid_from=datetime(2020, 1, 1, tzinfo=UTC), known_from=datetime.now(UTC), source="test",
        )  # fmt: skip
        async with AIOKafkaProducer(**options) as producer:
            for entry in (price, Head(1)):
                key, value = encode_entry(entry)
                await producer.send_and_wait(topics.CATALOG, value, key=key, partition=0)
        await until(lambda: told.reports[-1][3].get(Metric.RATER_PRICE_REVISION) == 1, task)
        await publish(options, [event(7, tenant="the-priced-one")])
        await until(lambda: told.reports[-1][3][Metric.RATER_EVENTS_TOTAL].get("priced") == 1, task)
        stop.set()
        await task
    rows = [row for row in (await read_output(options)).rows.values() if row.tenant == "the-priced-one"]
    assert [(row.amount_pico, row.currency, row.price_revision) for row in rows] == [(14 * 10**12, "USD", 1)]


async def test_a_fault_of_our_own_costs_one_event_until_it_is_mended(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = event(13, tenant="met-a-fault", id="poison")

    def broken(decoded: Event, *arguments: Any) -> Any:
        if decoded.id == "poison":
            raise KeyError("never foreseen")
        return admit(decoded, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rater, "admit", broken)
        async with running(options) as (stop, task, told):
            await publish(options, [event(1, tenant="neighbour"), poison, event(2, tenant="neighbour")] * 2)
            await until(lambda: decided(told) >= 6 and _idle(told), task)
            assert told.reports[-1][0] == "degraded" and "2 events met a fault" in (told.reports[-1][1] or "")
            assert told.reports[-1][3][Metric.RATER_EVENTS_TOTAL]["internal_error"] == 2
            stop.set()
            await task
    output = await read_output(options)
    assert len([row for row in output.rows.values() if row.tenant == "neighbour"]) == 4
    rejected = [each for each in output.rejected.values() if each.reason == "internal_error"]
    assert [(each.tenant, each.event_id) for each in rejected] == [("met-a-fault", "poison")] * 2
    async with running(options) as (stop, task, told):  # the mended version
        await publish(options, [base64.b64decode(rejected[0].value)])
        await until(lambda: _idle(told), task)
        stop.set()
        await task
    assert [row.event_id for row in (await read_output(options)).rows.values() if row.tenant == "met-a-fault"] == [
        "poison"
    ]


async def test_large_rows_fill_packs_that_the_broker_takes(options: dict[str, Any]) -> None:
    large = {"provider": "p", "model": "m", "operation": "chat", "usage": {}}
    large["vendor_usage"] = {"usage": {f"count_{number:05}": 1000 for number in range(750)}}
    sent = await publish(options, [event(0, tenant="large", data=large) for _ in range(400)])
    async with running(options) as (stop, task, told):
        await until(lambda: decided(told) >= sent and _idle(told), task)
        stop.set()
        await task
    assert len([row for row in (await read_output(options)).rows.values() if row.tenant == "large"]) == sent


async def test_what_is_fetched_before_the_assignment_is_complete_is_not_lost(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client fetches while the callback still asks for offsets; those records must come again."""
    sent = await publish(options, [event(i, tenant="early") for i in range(100)])
    end_offsets = AIOKafkaConsumer.end_offsets

    async def slow(self: AIOKafkaConsumer, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = await end_offsets(self, partitions)
        await asyncio.sleep(1.0)  # the fault: a broker that takes its time
        return ends

    monkeypatch.setattr(AIOKafkaConsumer, "end_offsets", slow)
    async with running(options) as (stop, task, told):
        await until(lambda: _idle(told), task)
        stop.set()
        await task
    early = [row for row in (await read_output(options)).rows.values() if row.tenant == "early"]
    assert len(early) == sent


async def test_a_flood_of_bad_arrays_is_decided_whole_and_never_waits_in_memory(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    elements, waited = 1_500, []
    before = len((await read_output(options)).rejected)
    sent = await publish(options, [b"[" + b",".join([b"1"] * elements) + b"]" for _ in range(40)])
    good = await publish(options, [event(i, tenant="after-the-flood") for i in range(20)])
    take_rejected = Outbox.take_rejected

    def watched(self: Outbox) -> list[Packed]:
        waited.append(len(self.rejected))
        return take_rejected(self)

    monkeypatch.setattr(Outbox, "take_rejected", watched)
    async with running(options) as (stop, task, told):
        await until(lambda: _idle(told) and decided(told) >= sent * elements + good, task)
        stop.set()
        await task
    assert OUTBOX_REJECTED_MAX <= max(waited) < OUTBOX_REJECTED_MAX + elements
    output = await read_output(options)
    assert len(output.rejected) - before == sent * elements
    assert sum(row.tenant == "after-the-flood" for row in output.rows.values()) == good


async def test_backfill_takes_what_raw_finds_too_old(options: dict[str, Any]) -> None:
    old = event(1, time="2023-11-16T18:15:46Z", id="import/1", tenant="imported")
    await publish(options, [old], topics.BACKFILL)
    await publish(options, [old], topics.RAW)
    async with running(options) as (stop, task, told):
        await until(lambda: _idle(told) and decided(told) >= 2, task)
        stop.set()
        await task
    output = await read_output(options)
    assert [key[0] for key, row in output.rows.items() if row.tenant == "imported"] == [2]
    assert [r.reason for r in output.rejected.values() if r.tenant == "imported"] == ["too_old"]


async def test_a_paused_rater_stays_paused_whatever_the_group_gives_it(options: dict[str, Any]) -> None:
    """Another rater comes, reads what it takes over as it finds it, and goes; what it leaves waits as well."""
    await publish(options, [b"{broken"] * 600)
    async with running(options, rater_pause_on_bad_share=0.5, rater_poll_records_max=150) as (_, task, told):
        await until(lambda: "reading is paused" in (_last(told)[1] or ""), task)
        at_pause = decided(told)
        async with running(options) as (stop, other, told_other):
            await until(lambda: _partitions(told) == _partitions(told_other) == 4, task)
            await until(lambda: _last(told_other)[2] == 0, other)
            stop.set()
            await other
        await until(lambda: _partitions(told) == 8, task)
        sent = await publish(options, [event(i, tenant="after-the-pause") for i in range(40)])
        await until(lambda: (_last(told)[2] or 0) >= sent, task)
        seen = len(told.reports)
        await until(lambda: len(told.reports) >= seen + 3, task)  # some hundred turns of its loop
        state, reason, lag, _ = _last(told)
        assert decided(told) == at_pause and (lag or 0) >= sent
        assert state == "degraded" and "reading is paused" in (reason or "")
    async with running(options) as (stop, task, told):
        await until(lambda: decided(told) > 0 and _idle(told), task)
        stop.set()
        await task
    rows = [row for row in (await read_output(options)).rows.values() if row.tenant == "after-the-pause"]
    assert len(rows) == sent


def _last(told: Told) -> tuple[str, str | None, int | None, dict[str, Any]]:
    return told.reports[-1] if told.reports else ("", None, None, {})


def _partitions(told: Told) -> int:
    return int(_last(told)[3].get(Metric.RATER_PARTITIONS, 0))
