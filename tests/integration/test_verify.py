"""`verify` and `where` against real servers: silent where all is well, and naming the place of each single fault."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from meterstream.deploy import database, stack, topics
from meterstream.deploy.cli.group import run
from meterstream.deploy.connections import resolve
from meterstream.deploy.intake.raw_record import positions_of
from meterstream.deploy.kafka import client_options
from meterstream.deploy.verify import run as whole
from meterstream.schema.errors import UsageError
from meterstream.schema.ids import claim_key, id_time_ms, uuid7
from meterstream.schema.settings import Settings
from meterstream.schema.topics import manifest
from meterstream.sinks.postgres import verify
from meterstream.sinks.postgres.where import where
from tests.background import beside

pytestmark = pytest.mark.stack

NOW = datetime.now(UTC).replace(microsecond=0)
COLUMNS = (
    "occurred_at, appended_at, position, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, "
    "reasoning_tokens, source_partition, price_revision, source_id, tenant, event_id, source, provider, model, "
    "operation, project_id, user_id, api_key_id, status, pricing, currency, amount"
)
ROLLUP = """
INSERT INTO meter.rollup_{size} AS r ({period}, events, errors, unpriced_events, input_tokens, output_tokens,
    cache_read_tokens, cache_write_tokens, reasoning_tokens, latency_ms_sum, latency_events, tenant, currency,
    provider, model, operation, project_id, {who} amount)
VALUES ($1, 1, 0, 0, 7, 0, 0, 0, 0, 0, 0, $2, 'USD', 'p', 'm', 'chat', '', {nobody} $3)
ON CONFLICT ON CONSTRAINT rollup_{size}_pkey DO UPDATE
SET events = r.events + 1, input_tokens = r.input_tokens + 7, amount = r.amount + $3
"""

Connection = Any


@pytest.fixture(scope="module")
async def settings(home: Path) -> Settings:
    """A prepared database and the topics of the manifest."""
    found = resolve(Settings(home=home))
    await topics.apply(found)
    logins = ("meterstream_ingest", "meterstream_reader")
    await database.prepare(found, passwords={login: stack.password(home, login) for login in logins})
    return found


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[Connection]:
    """A transaction that is rolled back: each test damages its own copy."""
    connection = await asyncpg.connect(settings.postgres_admin_dsn.get_secret_value())
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


@pytest.fixture
async def writer(settings: Settings) -> AsyncIterator[Connection]:
    """Commits what it does; everything is gone after the test."""
    connection = await asyncpg.connect(settings.postgres_admin_dsn.get_secret_value())
    yield connection
    tables = "ledger, duplicates, rejected, claims_timed, rollup_hourly, rollup_daily, sink_positions"
    await connection.execute("SET session_replication_role = replica")  # past the guard of the ledger
    await connection.execute(f"TRUNCATE {', '.join(f'meter.{table}' for table in tables.split(', '))}")
    await connection.close()


async def store(connection: Connection, position: int, tenant: str = "t", event_id: str | None = None) -> str:
    """One event as the sink would store it: ledger, claim and both rollups."""
    event_id = event_id or uuid7(NOW)
    await connection.execute(
        f"INSERT INTO meter.ledger ({COLUMNS}) VALUES ($1, $1, $2, 7, 0, 0, 0, 0, 0, 1, 1, $3, $4, 's', 'p', 'm', "
        "'chat', '', 'u', '', 'ok', 'priced', 'USD', $5)",
        NOW,
        position,
        tenant,
        event_id,
        Decimal("0.000000000007"),
    )
    key = claim_key(tenant, "s", event_id, id_time_ms(event_id))
    await connection.execute(
        "INSERT INTO meter.claims_timed (key, body, occurred_at) VALUES ($1, 0, $2)", UUID(bytes=key), NOW
    )
    amount = Decimal("0.000000000007")
    hour = NOW.replace(minute=0, second=0)
    await connection.execute(ROLLUP.format(size="hourly", period="hour", who="", nobody=""), hour, tenant, amount)
    await connection.execute(
        ROLLUP.format(size="daily", period="day", who="user_id, api_key_id,", nobody="'u', '',"),
        NOW.date(),
        tenant,
        amount,
    )
    return event_id


async def repeat(connection: Connection, position: int, event_id: str = "e") -> None:
    await connection.execute(
        "INSERT INTO meter.duplicates VALUES ($1, $2, 0, 1, 't', $3, 's')", NOW, position, event_id
    )


async def refuse(connection: Connection, position: int, event_id: str | None = None) -> None:
    await connection.execute(
        "INSERT INTO meter.rejected VALUES (1, 0, $1, $2, 'malformed_json', '', 'usage.raw', NULL, $3, '', 0, '')",
        position,
        NOW,
        event_id,
    )


async def test_nothing_is_wrong_with_an_empty_database(admin: Connection) -> None:
    report = await verify.verify(admin)
    assert report.is_good and [check.compared for check in report.checks] == [0, 0, 0, 0]


async def test_what_is_compared_is_counted(admin: Connection) -> None:
    for position in range(3):
        await store(admin, position)
    await repeat(admin, 3)
    await refuse(admin, 4)
    report = await verify.verify(admin, since=NOW)
    assert report.is_good
    assert [check.compared for check in report.checks] == [1, 1, 5, 3]
    assert [(total.currency, total.amount) for total in report.totals] == [("USD", Decimal("0.000000000021"))]
    later = await verify.verify(admin, since=NOW + timedelta(days=1))
    assert [check.compared for check in later.checks] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("damage", "check", "detail"),
    [
        ("UPDATE meter.rollup_hourly SET amount = amount + 1e-12", "rollup_hourly", "amount: ledger 0.000000000014"),
        ("UPDATE meter.rollup_hourly SET errors = 1", "rollup_hourly", "errors: ledger 0, rollup 1"),
        ("UPDATE meter.rollup_hourly SET adjustment_amount = 1", "rollup_hourly", "adjustment_amount: ledger 0"),
        ("DELETE FROM meter.rollup_hourly", "rollup_hourly", "the rollup has no row"),
        ("UPDATE meter.rollup_daily SET latency_events = 1", "rollup_daily", "latency_events: ledger 0, rollup 1"),
        ("UPDATE meter.rollup_daily SET user_id = 'v'", "rollup_daily", "the rollup has no row"),
        ("UPDATE meter.ledger SET position = 0", "disposition", "is in ledger,ledger"),
        ("INSERT INTO meter.duplicates SELECT appended_at, position, 0, 1, 't', 'e', 's' FROM meter.ledger",
         "disposition", "is in duplicates,ledger"),
        ("INSERT INTO meter.claims_timed VALUES (meter.claim_bound(now()), 0, now())", "claim", "3 claims, but 2"),
    ],
)  # fmt: skip
async def test_each_damage_is_named(admin: Connection, damage: str, check: str, detail: str) -> None:
    await store(admin, 0)
    await store(admin, 1)
    await admin.execute("SET session_replication_role = replica")  # past the guard of the ledger
    await admin.execute(damage.replace("now()", f"'{NOW.isoformat()}'"))
    report = await verify.verify(admin)
    wrong = [found for found in report.checks if found.different]
    assert not report.is_good and len(wrong) == 1 and check in wrong[0].name
    assert detail in wrong[0].differences[0].detail


async def test_a_position_that_two_versions_judged_is_no_fault(admin: Connection) -> None:
    await store(admin, 0)
    await refuse(admin, 0)
    report = await verify.verify(admin)
    assert report.is_good and report.judged_twice == 1


async def test_differences_are_bounded_and_all_counted(admin: Connection) -> None:
    for position in range(5):
        await store(admin, position, tenant=f"t{position}")
    await admin.execute("UPDATE meter.rollup_hourly SET events = 9")
    found = (await verify.verify(admin, differences_max=2)).checks[0]
    assert (found.different, len(found.differences)) == (5, 2)


async def test_where_an_event_is(admin: Connection) -> None:
    event_id = await store(admin, 7 << 20 | 2)
    await repeat(admin, 8 << 20, event_id)
    await refuse(admin, 9 << 20, event_id)
    for tenant, source in (("t", "s"), ("t", None), (None, None)):
        found = await where(admin, event_id, tenant=tenant, source=source)
        assert [row.place for row in found.charged] == ["usage.raw/0 offset 7 index 2"], found.searched
        assert len(found.repeated) == 1
        assert [row.reason for row in found.refused] == ["malformed_json"]
    assert not (await where(admin, event_id, tenant="somebody", source="s")).charged
    assert not (await where(admin, "unknown")).is_found


async def test_a_writer_at_work_is_no_difference(settings: Settings, writer: Connection) -> None:
    """The same queries one by one would see the ledger before and the rollup after a transaction."""

    async def write(is_done: asyncio.Event) -> int:
        written = 0
        while not is_done.is_set():
            async with writer.transaction():
                await store(writer, 1_000 + written, tenant="busy")
            written += 1
        return written

    async with beside(write) as task:
        results = [await whole.verify(settings) for _ in range(30)]
    written = task.result()
    assert all(result.is_good for result in results)
    seen = {sum(total.events for total in result.report.totals) for result in results}
    assert len(seen) > 5 and max(seen) <= written


# ------------------------------------------------------------------------------------------- the raw topics


def event(event_id: str) -> dict[str, Any]:
    return {"specversion": "1.0", "id": event_id, "data": {}}


async def publish(settings: Settings, values: list[tuple[bytes, list[tuple[str, bytes]]]]) -> None:
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        for value, headers in values:
            await producer.send_and_wait("usage.raw", value, partition=0, headers=headers)


async def cover(connection: Connection, position: int, *, cluster_id: str, but: tuple[str, int] | None = None) -> None:
    """Every sink partition holds source partition 1/0 up to here; one may lag behind."""
    await connection.execute("DELETE FROM meter.sink_positions")
    for topic in ("usage.priced", "usage.rejected"):
        for partition in range(manifest()[topic].partitions):
            held = json.dumps({"1/0": 0 if (topic, partition) == but else position})
            await connection.execute(
                "INSERT INTO meter.sink_positions VALUES ($1, $2, 0, 1, $3::jsonb, $4, now())",
                *(topic, partition, held, cluster_id),
            )


async def test_the_topics_are_compared_position_by_position(settings: Settings, writer: Connection) -> None:
    here = await topics.cluster_id(settings)
    a, b, c, d = (uuid7(NOW) for _ in range(4))
    binary = [("ce_id", c.encode()), ("ce_type", b"x"), ("content-type", b"application/json")]
    await publish(
        settings,
        [
            (json.dumps(event(a)).encode(), []),
            (json.dumps([event(b), 3]).encode(), []),
            (b"[{}, {", []),
            (b"{}", binary),
            (json.dumps(event(d)).encode(), []),
        ],
    )
    await store(writer, 0, event_id=a)
    await store(writer, 1 << 20, event_id=b)
    await refuse(writer, 1 << 20 | 1)
    await refuse(writer, 2 << 20)
    await repeat(writer, 3 << 20, c)
    await cover(writer, (4 << 20) - 1, cluster_id=here)

    async def differences() -> list[str]:
        result = await whole.verify(settings, is_raw=True)
        assert result.raw is not None and result.report.is_good
        assert [partition.positions for partition in result.raw[1:]] == [0] * 7
        return [f"{place}: {detail}" for place, detail in result.raw[0].differences]

    result = await whole.verify(settings, is_raw=True)
    assert result.is_good and result.raw is not None
    assert (result.raw[0].positions, result.raw[0].last_offset) == (5, 3)

    found = await whole.where(settings, d, is_raw=True)
    assert found.published == ("usage.raw/0 offset 4 index 0",) and not found.stored.is_found

    await store(writer, 4 << 20, event_id=d)  # stored already, but not every sink partition says so
    assert await differences() == []
    await cover(writer, (5 << 20) - 1, cluster_id=here, but=("usage.rejected", 3))
    assert await differences() == []
    await cover(writer, (5 << 20) - 1, cluster_id=here)
    assert await differences() == []

    await writer.execute("DELETE FROM meter.rejected WHERE position = $1", 2 << 20)
    assert await differences() == ["usage.raw/0 offset 2 index 0: was published, but is in no table"]
    await refuse(writer, 2 << 20)
    await refuse(writer, 2 << 20 | 1)
    assert await differences() == ["usage.raw/0 offset 2 index 1: is in rejected, but was never published"]
    await writer.execute("DELETE FROM meter.rejected WHERE position = $1", 2 << 20 | 1)
    await writer.execute("UPDATE meter.duplicates SET event_id = 'another'")
    assert await differences() == [f"usage.raw/0 offset 3 index 0: is {c!r} in the topic, 'another' in duplicates"]
    await writer.execute("UPDATE meter.duplicates SET event_id = $1", c)
    await cover(writer, (9 << 20) - 1, cluster_id=here)
    assert "but the topic ends before offset 5" in (await differences())[0]


async def test_another_cluster_is_told_before_anything_is_compared(settings: Settings, writer: Connection) -> None:
    await cover(writer, (4 << 20) - 1, cluster_id="elsewhere")
    text = "positions of Kafka cluster elsewhere, but the broker is cluster "
    for is_raw in (True, False):
        with pytest.raises(UsageError, match=text):
            await whole.verify(settings, is_raw=is_raw, is_live=not is_raw)
    with pytest.raises(UsageError, match=text):
        await whole.where(settings, "e", is_raw=True)
    assert (await whole.verify(settings)).is_good


def test_the_commands(
    settings: Settings, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERSTREAM_HOME", str(home))
    assert run(["verify", "--since", "2026-01-31"]) == 0
    assert "All of it agrees." in capsys.readouterr().out
    assert run(["verify", "--raw", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["is_good"] and [check["different"] for check in report["report"]["checks"]] == [0, 0, 0, 0]
    assert run(["where", "unknown", "--tenant", "t", "--source", "s"]) == 1
    assert capsys.readouterr().out.startswith("not here\nsearched: all of this tenant's ledger (")
    assert run(["where", "unknown", "--raw"]) == 1
    assert re.fullmatch(
        r"not here\nsearched: all of the ledger \(the id has no time to go by; tenant and source would make it "
        r"quick\); duplicates; rejected; all \d+ records that are published and not stored yet\n",
        capsys.readouterr().out,
    )
    assert run(["verify", "--since", "yesterday"]) == 2


@pytest.mark.parametrize(
    ("value", "positions"),
    [
        (b"", 1),
        (b"[]", 1),
        (b"[1, 2, 3]", 3),
        (b'[{"a": NaN}, 1]', 2),
        (b'["\\ud800", 1]', 2),
        (b'[{"a": [{"b": nul}]}, 1, {"c": "]\\\\\\",["}]', 3),
        (b" [1,, 01 ,]\r\n", 4),
        (b"[NaN]", 1),
        (b"[NaN, 1] 2", 1),
        (b"[NaN, 1", 1),
        (b"[NaN, {]}]", 1),
        (b'[NaN, "a, 1]', 1),
        (b'[NaN, "a\\\\, 1]', 1),
        (b"]", 1),
        (b"[NaN, " + b",".join([b"1"] * 10_000) + b"]", 1),
        (b"[1, " + b"[" * 100_000 + b"]" * 100_000 + b", 1]", 3),
        (b'["\xff", 1]', 2),
        (b"[" + b"9" * 5000 + b", 1]", 2),
        (b"[" + b",".join([b"1"] * 10_000) + b"]", 10_000),
        (b"[" + b",".join([b"1"] * 10_001) + b"]", 1),
        (b"[" * 100_000, 1),
    ],
)
def test_what_a_record_holds_as_the_rater_sees_it(value: bytes, positions: int) -> None:
    """`verify` reads with another decoder than the rater; what they take apart must be the same."""
    from meterstream.processors.rating.decode import decode_record

    class Record:
        offset = 0
        headers: tuple[tuple[str, bytes], ...] = ()

        def __init__(self) -> None:
            self.value = value

    assert len(positions_of(Record())) == positions == len(decode_record(value, ()))


JSON_EVENTS, AVRO = b"application/cloudevents+json", b"application/avro"


@pytest.mark.parametrize(
    ("headers", "positions"),
    [
        ((("content-type", JSON_EVENTS), ("Content-Type", AVRO)), 2),
        ((("Content-Type", AVRO), ("content-type", JSON_EVENTS)), 1),
        ((("content-type", JSON_EVENTS), ("caf\udce9", b"")), 1),
        ((("content-type", JSON_EVENTS), ("café", b"")), 2),
    ],
)
def test_headers_as_rater_verify_and_oracle_see_them(headers: tuple[tuple[str, bytes], ...], positions: int) -> None:
    """Of a content-type that comes twice the first counts; a name that is no UTF-8 refuses the whole record."""
    from meterstream.processors.rating.decode import decode_record
    from tests.oracle.records import RawRecord, slots_of

    record = RawRecord("usage.raw", 0, 0, 0, b"[{}, {}]", headers)
    assert len(decode_record(record.value, headers)) == positions
    assert len(positions_of(record)) == len(slots_of(record)) == positions
