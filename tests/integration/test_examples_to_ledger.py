"""Every golden example through the rater's core into a real ledger: the sink, too, is fed all of them."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest
from aiokafka.structs import ConsumerRecord

from meterstream.processors.rating.route import Outbox, Packed
from meterstream.schema.pack import COVERAGE_HEADERS, encode_coverage
from meterstream.schema.position import SourcePartition
from meterstream.schema.topics import BACKFILL, PRICED, REJECTED, partitions_of, source_ids
from meterstream.sinks.postgres.service import PostgresSink
from tests.prepared import without_prices
from tests.unit.test_examples import INVALID, VALID, Record, load, make_rater

pytestmark = pytest.mark.stack


def records() -> list[tuple[str, Record, Counter[str]]]:
    """(topic, the example as a record at an offset of its own, what is expected of it)."""
    found = []
    for offset, path in enumerate(VALID + INVALID):
        example, record = load(path)
        # An example may hold the id of another one: here each stands for itself.
        value = record.value and record.value.replace(b'"shop/checkout-bot"', json.dumps(f"shop/{path.stem}").encode())
        moved = Record(offset, record.timestamp, record.key, value, record.headers)
        found.append((example["topic"], moved, Counter(example["expect"])))
    return found


async def test_every_example_reaches_its_table(home: Path) -> None:
    settings = await without_prices(home)
    rater = make_rater()
    sink = PostgresSink(settings.postgres_ingest_dsn.get_secret_value(), cluster_id="examples", policy="month")
    partitions = {(name, number): 0 for name in (PRICED, REJECTED) for number in range(partitions_of(name))}
    await sink.claim(partitions)

    def take(topic: str, packed: Packed, *, is_coverage: bool = False) -> None:
        offset = partitions[topic, packed.partition]
        partitions[topic, packed.partition] = offset + 1
        headers = COVERAGE_HEADERS if is_coverage else ()
        sink.take(
            (topic, packed.partition),
            [
                ConsumerRecord(
                    topic, packed.partition, offset, 0, 0, None, packed.value, None, 0, len(packed.value), headers
                )
            ],
        )

    expected: Counter[str] = Counter()
    # One source partition an example: each is the first of its topic that this sink sees.
    for number, (topic, record, outcome) in enumerate(records()):
        outbox = Outbox(
            SourcePartition(source_ids()[topic], number),
            start_offset=None,
            priced=partitions_of(PRICED),
            rejected=partitions_of(REJECTED),
        )
        rater.rate(topic, outbox, [record], is_backfill=topic == BACKFILL)
        expected += outcome
        for partition in sorted(outbox.waiting):
            for packed in outbox.cut(partition):
                take(PRICED, packed)
        for packed in outbox.take_rejected():
            take(REJECTED, packed)
        covered = outbox.cover_rejected(number % partitions_of(REJECTED))
        assert covered is not None
        take(REJECTED, Packed(number % partitions_of(REJECTED), encode_coverage([covered])), is_coverage=True)
    await sink.flush()
    await sink.close()

    connection = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    rows = await connection.fetch("SELECT * FROM meter.usage_events")
    hours = await connection.fetch("SELECT model, sum(unpriced_events) AS unpriced FROM meter.usage_hourly GROUP BY 1")
    costs = await connection.fetch("SELECT * FROM meter.reported_costs")
    reasons = await connection.fetch("SELECT reason, value, value_length FROM meter.rejected")
    await connection.close()
    assert len(rows) == expected.pop("accepted")
    assert Counter(row["reason"] for row in reasons) == expected
    assert all(len(row["value"]) == min(row["value_length"], 65536) for row in reasons)
    assert all((row["amount"] is None) == (row["pricing"] != "priced") for row in rows)
    by_source = {row["source"].removeprefix("shop/"): row for row in rows}
    claude = by_source["vendor_anthropic"]
    assert (claude["model"], claude["stated_model"]) == ("claude-sonnet-4-5-20250929", "claude-sonnet-latest")
    assert (claude["input_tokens"], claude["cache_read_tokens"], claude["service_tier"]) == (2303, 2000, "standard")
    assert by_source["vendor_openai"]["amount"] == Decimal("0.006")  # 1,200 in, 300 out: nothing twice
    for name, reason in (("vendor_unmetered", "no shape"), ("vendor_subcount", "sum to 9, output_tokens is 5")):
        row = by_source[name]
        assert (row["pricing"], row["currency"], row["amount"]) == ("unmetered", "XXX", None)
        assert reason in row["unmetered_reason"] and row["vendor_usage"]
    without_amount = Counter(row["model"] for row in rows if row["amount"] is None)
    assert {row["model"]: row["unpriced"] for row in hours if row["unpriced"]} == without_amount
    differences = {row["source"].removeprefix("shop/"): row["difference"] for row in costs}
    assert differences["chat_full"] == Decimal("0.0001")  # says 0.0061, and is 1,200 in, 300 out
    assert differences["vendor_openrouter"] is None, "our charge is not known"
    reported = {row["source"].removeprefix("shop/"): row["reported_amount"] for row in costs}
    assert (reported["vendor_openrouter"], reported["vendor_twilio"]) == (Decimal("0.000102"), Decimal("0.0249"))
