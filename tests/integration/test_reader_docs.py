"""docs/subscribe.md and docs/query.md: their programs and queries, run as written on a day of known usage."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shlex
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from meterstream.deploy.connections import reader
from meterstream.deploy.live import budgets
from meterstream.deploy.pricing import prices
from meterstream.deploy.running import supervisor
from meterstream.producers import AsyncMeterClient
from meterstream.schema import price_file
from meterstream.schema.settings import Settings
from meterstream.schema.topics import manifest
from tests.fault.roles import clean_environment
from tests.prepared import without_prices

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0
NOW = datetime.now(UTC)
DAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
BROKEN = b'{"specversion": "1.0", "tenant": "acme"'
PASSWORD = secrets.token_hex(8)


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text("utf-8")


def block(page: str, header: str) -> str:
    [found] = re.findall(rf"```{header}\n(.*?)```", text(page), re.DOTALL)
    return str(found)


def program(page: str, header: str = "python") -> dict[str, Any]:
    """The names that a page's program defines."""
    names: dict[str, Any] = {}
    exec(compile(block(page, header), page, "exec"), names)
    return names


async def until(look: Callable[[], Awaitable[Any]], is_there: Callable[[Any], bool]) -> Any:
    """A poll with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not is_there(found := await look()):
            await asyncio.sleep(0.1)
    return found


@pytest.fixture(scope="module")
async def settings(home: Path) -> AsyncIterator[Settings]:
    """Every role has stored and counted a week's usage of acme, one call of globex, and one record that is no event."""
    settings = await without_prices(home)
    rates = {"input_tokens": "1", "cache_read_tokens": "0.1"}
    lines = [
        price_file.single(
            provider="acme",
            model=model,
            unit=unit,
            rate=rate,
            per=1000,
            currency="EUR",
            valid_from="2026-01-01",
            source="test",
        )
        for model in ("m", "m2")
        for unit, rate in rates.items()
    ]
    await prices.add(settings, lines, "test")
    await budgets.add(settings, {"tenant": "acme", "name": "monthly", "amount": "5", "currency": "EUR"})
    for line in block("query.md", "console").splitlines():
        await meterstream(home, shlex.split(line))
    supervisor.start(home, supervisor.known(()), bind_to_parent=True)
    await publish(settings.kafka_bootstrap)
    await until(lambda: rows(settings, "SELECT 1 FROM meter.ledger UNION ALL SELECT 1 FROM meter.rejected"), is_all)
    await until(lambda: rows(settings, "SELECT 1 FROM meter.budget_alerts"), lambda found: len(found) == 3)
    yield settings
    supervisor.stop(home)


async def meterstream(home: Path, words: list[str]) -> None:
    """One of the page's commands; a password is read from standard input."""
    assert words[0] == "meterstream"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from meterstream.deploy.cli import main; main()", *words[1:]),
        env=clean_environment() | {"METERSTREAM_HOME": str(home)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(f"{PASSWORD}\n".encode())
    assert process.returncode == 0, said


def is_all(found: list[Any]) -> bool:
    return len(found) == 8


async def publish(bootstrap: str) -> None:
    call: dict[str, Any] = {"provider": "acme", "operation": "chat", "tenant": "acme", "model": "m"}
    async with AsyncMeterClient("shop", bootstrap_servers=bootstrap, on_error="raise") as meter:
        for fields in (
            {"user_id": "u3", "time": NOW - timedelta(days=8), "usage": {"input_tokens": 1000}},
            {"user_id": "u1", "conversation_id": "c1", "latency_ms": 100, "tags": {"team": "search"},
             "usage": {"input_tokens": 1000, "cache_read_tokens": 400}},
            {"user_id": "u1", "conversation_id": "c1", "latency_ms": 300, "usage": {"input_tokens": 2000}},
            {"user_id": "u2", "conversation_id": "c2", "latency_ms": 5000, "status": "error", "status_code": 500,
             "operation_id": "o1", "attempt": 1, "usage": {"input_tokens": 1000}},
            {"user_id": "u2", "latency_ms": 200, "operation_id": "o1", "attempt": 2, "model": "m2",
             "tags": {"team": "ads"}, "usage": {"input_tokens": 3000}},
            {"user_id": "u2", "model": "unknown", "usage": {"input_tokens": 10}},
            {"tenant": "globex", "usage": {"input_tokens": 5000}},
        ):  # fmt: skip
            await meter.record(**(call | {"time": NOW} | fields))
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait("usage.raw", BROKEN, key=b"acme")


async def rows(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    async with reader(settings) as connection:
        return [tuple(row) for row in await connection.fetch(query)]


async def as_tenant(settings: Settings) -> asyncpg.Connection[Any]:
    dsn = settings.postgres_reader_dsn.get_secret_value()
    return await asyncpg.connect(dsn, user="acme_reader", password=PASSWORD)


# docs/query.md

QUERIES: dict[str, list[tuple[Any, ...]]] = {
    "conversations": [("c1", "EUR", 2, Decimal("2.64"), NOW), ("c2", "EUR", 1, 1, NOW)],
    "unit_cost": [
        ((NOW - timedelta(days=8)).date(), "m", "EUR", 1),
        (NOW.date(), "m", "EUR", Decimal("0.91")),
        (NOW.date(), "m2", "EUR", 1),
    ],
    "cached": [("m", 400, 4000, 10), ("m2", 0, 3000, 0), ("unknown", 0, 10, 0)],
    "errors": [("m", "error", 500, "EUR", 1, 1)],
    "latency": [("m", 3, 300, 4530), ("m2", 1, 200, 200)],
    "unpriced": [("acme", "unknown", 1, NOW.date(), 10)],
    "growth": [("m2", "EUR", 3, 0, 3), ("m", "EUR", Decimal("3.64"), 1, Decimal("2.64"))],
    "tags": [("(none)", "EUR", 2, 3), ("ads", "EUR", 1, 3), ("search", "EUR", 1, Decimal("0.64")),
             ("(none)", "XXX", 1, None)],
    "operations": [("o1", "EUR", 2, 1, ["m", "m2"], 4, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_finds_what_was_used(settings: Settings, name: str) -> None:
    query = block("query.md", f"sql {name}")
    found = await rows(settings, query)
    assert found == QUERIES[name]
    tenant = await as_tenant(settings)
    try:
        assert [tuple(row) for row in await tenant.fetch(query)] == found, "a tenant's login finds the same"
    finally:
        await tenant.close()


async def test_the_month_is_by_user_and_currency(settings: Settings) -> None:
    found = await rows(settings, block("query.md", "sql month"))
    if datetime.now(UTC).month == NOW.month:
        assert [row for row in found if row[0] != "u3"] == [
            ("u2", "EUR", 4, 2, 0), ("u1", "EUR", Decimal("2.64"), 2, 0), ("u2", "XXX", 0, 1, 1),
        ]  # fmt: skip


async def test_the_days_of_another_zone_begin_there(settings: Settings) -> None:
    [priced, unpriced] = await rows(settings, block("query.md", "sql zone"))
    begins = NOW.astimezone(ZoneInfo("Europe/Berlin")).replace(hour=0, minute=0, second=0, microsecond=0)
    assert priced == (begins, "EUR", Decimal("6.64"))
    assert unpriced == (begins, "XXX", 0)


async def test_the_dearest_call_is_explained(settings: Settings) -> None:
    [line] = await rows(settings, block("query.md", "sql explain_cost"))
    assert line[1:] == ("input_tokens", 3000, 1, 1000, 3, 3, "EUR", True, None)


async def plan(connection: asyncpg.Connection[Any], query: str) -> str:
    await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")  # five rows need no index
    return "\n".join(row[0] for row in await connection.fetch(query))


BOTH = r"Index Cond: \(\({} AND \(occurred_at >= "


async def test_the_plan_uses_the_index_in_few_partitions(settings: Settings) -> None:
    query = block("query.md", "sql plan")
    async with reader(settings) as connection:
        found = await plan(connection, query)
    assert "Subplans Removed" in found
    assert re.search(BOTH.format(r"tenant = 'acme'::text\)"), found), found
    tenant = await as_tenant(settings)
    try:
        found = await plan(tenant, query.replace("tenant = 'acme' AND ", ""))
    finally:
        await tenant.close()
    assert "Subplans Removed" in found
    assert re.search(BOTH.format(r"tenant = .*?\)"), found), found


@pytest.mark.parametrize(
    ("source", "condition", "index"),
    [
        ("usage_daily", "tenant = 'acme' AND day >= current_date - 7", r"Index Cond: .*tenant = .*day >= "),
        ("usage_hourly", "tenant = 'acme' AND hour >= now() - interval '1 day'", r"Index Cond: .*tenant = .*hour >= "),
        ("spend_by_model", "tenant = 'acme' AND day >= current_date - 7", r"Index Cond: .*tenant = .*day >= "),
        ("budget_alerts", "tenant = 'acme' AND alert_time >= now()", r"Index Cond: .*tenant = .*alert_time >= "),
        ("usage_events", "tenant = 'acme'", r"Index Cond: \(tenant = "),
        ("usage_events", "event_id = 'x'", None),
        ("usage_events", "tags ->> 'team' = 'x'", None),
    ],
)
async def test_a_filter_uses_the_index_that_it_is_said_to(
    settings: Settings, source: str, condition: str, index: str | None
) -> None:
    async with reader(settings) as connection:
        found = await plan(connection, f"EXPLAIN (COSTS off) SELECT * FROM meter.{source} WHERE {condition}")
    assert bool(re.search(index or "Index Cond", found)) == (index is not None), found


async def test_every_column_is_explained(settings: Settings) -> None:
    shown = (
        "usage_events", "usage_hourly", "usage_daily", "spend_by_model", "reported_costs", "unmetered",
        "budget_status", "budget_alerts", "current_budgets", "prices", "rejected", "duplicates",
    )  # fmt: skip
    columns = await rows(
        settings,
        "SELECT attname::text FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid"
        f" WHERE relnamespace = 'meter'::regnamespace AND relname IN {shown} AND attnum > 0"
        " UNION SELECT unnest(proargnames) FROM pg_proc WHERE proname = 'explain_cost'",
    )
    missing = {column for (column,) in columns if f"`{column}`" not in text("query.md")}
    assert len(columns) > 120 and missing == set()


async def test_a_tenant_is_told_only_of_itself(settings: Settings) -> None:
    tenant = await as_tenant(settings)
    try:
        for view in ("usage_events", "usage_hourly", "usage_daily", "spend_by_model", "budget_status", "budget_alerts"):
            assert await tenant.fetch(f"SELECT DISTINCT tenant FROM meter.{view}") == [("acme",)]
        for table in ("rejected", "settlements"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await tenant.fetch(f"SELECT 1 FROM meter.{table}")
    finally:
        await tenant.close()


# docs/subscribe.md


async def test_alerts_are_posted_until_the_receiver_has_them(settings: Settings) -> None:
    answers = [503, 200, 200, 200]
    posted: list[tuple[str | None, dict[str, Any]]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            posted.append((self.headers["idempotency-key"], body))
            self.send_response(answers[len(posted) - 1])
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None: ...

    follow = program("alerts.md")["follow"]
    webhook = program("subscribe.md", "python webhook")
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        webhook["HOOK"] = f"http://127.0.0.1:{server.server_port}/alerts"
        try:
            with pytest.raises(HTTPError) as refused:
                await follow(settings.kafka_bootstrap, webhook["post"])
            refused.value.close()
            running = asyncio.create_task(follow(settings.kafka_bootstrap, webhook["post"]))
            await until(lambda: asyncio.sleep(0, len(posted)), lambda count: count == 4 or running.done())
            running.cancel()
            await asyncio.wait([running])
        finally:
            server.shutdown()
            thread.join()
    assert [alert["data"]["percent"] for _, alert in posted] == [50, 50, 80, 100]
    assert [key for key, _ in posted] == [alert["id"] for _, alert in posted]
    assert posted[0] == posted[1]


async def test_the_live_table_is_that_of_the_ledger(settings: Settings) -> None:
    names = program("subscribe.md", "python live")
    live = names["Live"]()
    running = asyncio.create_task(names["materialise"](settings.kafka_bootstrap, live))
    wanted = {("acme", "EUR"): Decimal("6.64"), ("globex", "EUR"): Decimal(5)}
    try:
        await until(
            lambda: asyncio.sleep(0, live.is_complete and names["spent_today"](live, DAY) == wanted),
            lambda is_there: is_there or running.done(),
        )
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert live.records["budget/acme/monthly"]["reached"] == [50, 80, 100]
    assert names["spent_today"](live, DAY) == wanted


def test_the_live_table_believes_the_higher_offset_and_no_ghosts() -> None:
    live = program("subscribe.md", "python live")["Live"]()
    window = json.loads(block("subscribe.md", "json window"))
    key = "window/acme/hour/2026-05-04T09"
    golden = json.loads((ROOT / "schema/examples/aggregates/valid/hour.json").read_text())
    assert (golden["key"], golden["value"]) == (key, window)
    live.take(key, json.dumps(window).encode())
    live.take(key, json.dumps(window | {"offset": 7, "totals": []}).encode())
    assert live.windows("hour") == [window]
    live.take(key, None)
    assert live.windows("hour") == []
    live.take(key, json.dumps(window).encode())
    progress = {"kind": "progress", "partition": 14, "offset": 99999, "watermark": "2026-05-04T12:00:00Z"}
    live.take("progress/14", json.dumps(progress).encode())
    assert live.windows("hour") == [], "sent late, after its tombstone"


async def test_a_rejected_record_is_met(settings: Settings) -> None:
    class Met(Exception):
        pass

    async def meet(reason: str, tenant: str | None, value: bytes) -> None:
        raise Met(reason, tenant, value)

    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Met) as met:
            await program("subscribe.md", "python rejected")["follow_rejected"](settings.kafka_bootstrap, meet)
    assert met.value.args[0] == "malformed_json" and met.value.args[2] == BROKEN


def test_the_topics_are_as_the_table_says() -> None:
    table = re.findall(r"^\| `(usage\.\w+)` \|.*?\| (\d+) \| (\S+)", text("subscribe.md"), re.MULTILINE)
    assert {name for name, _, _ in table} == {"usage.alerts", "usage.aggregates", "usage.rejected"}
    for name, partitions, kept in table:
        topic = manifest()[name]
        assert topic.partitions == int(partitions)
        assert topic.config.get("retention.ms") == (int(kept) * 86_400_000 if kept.isdigit() else None)
