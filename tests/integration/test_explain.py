"""`explain` over a simulated run in a real database: every charge is confirmed line by line, a false one is not."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from click.testing import CliRunner, Result

from meterstream.deploy.cli.group import program
from meterstream.deploy.connections import Connection, resolve
from meterstream.deploy.kafka import client_options
from meterstream.deploy.prepare import prepare
from meterstream.deploy.pricing import listing, prices
from meterstream.deploy.pricing.explain import Books, explain_row
from meterstream.producers.simulate import SimulatorConfig, simulate
from meterstream.schema import price_file
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.event import EVENT_TYPE
from meterstream.schema.metrics import Metric
from meterstream.schema.pack import KIND_HEADER, Row, decode_pack
from meterstream.schema.price_line import PriceLine
from meterstream.schema.settings import Settings
from meterstream.schema.topics import PRICED, RAW
from tests import topic_log
from tests.integration.priced_log import EVERY_ROW, PricedLog
from tests.integration.test_rater import decided, event, publish, running, until

pytestmark = pytest.mark.stack

NOW = datetime.now(UTC).replace(microsecond=0)
EVENTS = 3000


@pytest.fixture(scope="module")
async def settings(home: Path) -> Settings:
    """A database with a simulated run: the first half at shipped prices, the second after two changes of them."""
    await prepare(Settings(home=home))
    settings = resolve(Settings(home=home))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    config = SimulatorConfig(seed=seed, events=EVENTS, tenants=5, start=NOW - timedelta(days=2), end=NOW)
    values = [(record.value, record.headers) for record in simulate(config) if record.topic == RAW]
    log = PricedLog(settings, NOW)
    await log.rate(values[: len(values) // 2])
    for line in _changes():
        await prices.add(settings, [line], f"a change for {line.unit}")
    await log.rate([*values[len(values) // 2 :], *((value, STRUCTURED_HEADERS) for value in _special())])
    await log.close()
    return settings


@pytest.fixture
async def admin(settings: Settings) -> Any:
    connection = await asyncpg.connect(settings.postgres_admin_dsn.get_secret_value())
    yield connection
    await connection.close()


def _changes() -> list[PriceLine]:
    """A correction of a shipped price, and terms of a tenant."""
    shipped = next(
        line
        for line in reversed(price_file.shipped())
        if line.is_plain and (line.provider, line.model, line.unit) == ("openai", "gpt-4o", "input_tokens")
    )
    return [
        replace(shipped, rate="2.6", source="a correction"),
        replace(shipped, tenant="t-1", unit="output_tokens", rate="1.000000000000000001", per=3, source="a contract"),
    ]


def _special() -> list[bytes]:
    """What the simulator does not make."""
    data: list[tuple[str, dict[str, Any]]] = [
        ("half", {"provider": "openai", "model": "gpt-4o", "usage": {"output_tokens": 7}}),
        ("nothing", {"provider": "openai", "model": "gpt-4o"}),
        ("zero", {"provider": "openai", "model": "gpt-4o", "usage": {"input_tokens": 0, "output_tokens": 0}}),
        ("no-price", {"provider": "openai", "model": "gpt-4o", "usage": {"input_tokens": 1, "gigabytes": 0.5}}),
        ("unmetered", {"provider": "openai", "model": "gpt-4o", "vendor_usage": {"odd": 1}}),
        (
            "context",
            {
                "provider": "openai",
                "model": "ft:gpt-4o-mini-2024-07-18:acme",
                "usage": {"input_tokens": 1000},
                "service_tier": "batch",
                "region": "eu",
                "tags": {"processing": "fast", "team": "x"},
            },
        ),
        (
            "reported",
            {
                "provider": "openai",
                "model": "gpt-4o",
                "usage": {"output_tokens": 7},
                "reported_amount": "0.5",
                "reported_currency": "EUR",
            },
        ),
        (
            "vendor",
            {
                "provider": "anthropic",
                "vendor_usage": {
                    "model": "claude-sonnet-4-5",
                    "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 9},
                },
            },
        ),
    ]
    return [
        msgspec.json.encode(
            {
                "specversion": "1.0",
                "type": EVENT_TYPE,
                "id": name,
                "source": "special",
                "tenant": "t-1",
                "time": NOW,
                "data": {"operation": "chat", **content},
            }
        )
        for name, content in data
    ]


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(
        program,
        arguments,
        standalone_mode=False,
        env={
            "METERSTREAM_HOME": str(settings.home),
            "METERSTREAM_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "METERSTREAM_POSTGRES_ADMIN_DSN": settings.postgres_admin_dsn.get_secret_value(),
            "METERSTREAM_POSTGRES_READER_DSN": settings.postgres_reader_dsn.get_secret_value(),
        },
    )


def explained(settings: Settings, event_id: str, *arguments: str) -> tuple[list[dict[str, Any]], int]:
    done = run(settings, "explain", event_id, "--json", *arguments)
    assert done.exception is None, done.exception
    return json.loads(done.stdout)["rows"], done.return_value


async def test_every_charge_of_the_run_is_confirmed(admin: Connection) -> None:
    books = Books(admin)
    seen: Counter[str] = Counter()
    for record in await admin.fetch(EVERY_ROW):
        row = await explain_row(record, books)
        assert row.is_equal, row
        seen[row.pricing] += 1
        seen[f"revision {row.price_revision}"] += 1
        if row.recomputed is not None and row.recomputed.amount_pico is not None:
            assert sum(line.amount_pico for line in row.recomputed.lines) == row.amount_pico
            assert all(line.price.revision <= row.price_revision for line in row.recomputed.lines)
    assert seen.total() > EVENTS and set(seen) == {"priced", "unpriced", "unmetered", "revision 1", "revision 3"}


async def test_a_corrected_price_does_not_move_what_was_charged_before(settings: Settings, admin: Connection) -> None:
    for revision, rate in ((1, "2.5"), (3, "2.6")):
        event_id = await admin.fetchval(
            "SELECT event_id FROM meter.ledger WHERE price_revision = $1 AND model = 'gpt-4o' AND pricing = 'priced'"
            " AND input_tokens > cache_read_tokens",
            revision,
        )
        ((row, *_), code) = await asyncio.to_thread(explained, settings, event_id)
        assert (row["price_revision"], row["is_equal"], code) == (revision, True, 0)
        line = next(line for line in row["recomputed"]["lines"] if line["unit"] == "input_tokens")
        assert line["rate"] == rate and line["price"]["revision"] == revision - (revision == 3)


def test_each_line_says_why(settings: Settings) -> None:
    ((row,), code) = explained(settings, "half", "--tenant", "t-1")
    assert code == 0 and row["is_equal"] and row["amount"] == "2.333333333333"
    (line,) = row["recomputed"]["lines"]
    assert {name: line[name] for name in line if name != "price"} == {
        "unit": "output_tokens",
        "quantity": 7,
        "rate": "1.000000000000000001",
        "per": 3,
        "amount": "2.333333333333",
        "rounding": "-1000007/3000000000000000000",
    }
    price = line["price"]
    assert (price["tenant"], price["source"], price["revision"]) == ("t-1", "a contract", 3)
    text = run(settings, "explain", "half").stdout
    assert "7  output_tokens  at 1.000000000000000001 / 3 = 2.333333333333" in text
    assert "(rounding -1000007/3000000000000000000)" in text
    assert "for t-1, for 'gpt-4o': from " in text and "(revision 3), a contract" in text and "equal" in text


def test_a_reported_cost_that_is_not_billed_is_said(settings: Settings) -> None:
    ((row,), _) = explained(settings, "reported")
    assert (row["reported_amount"], row["reported_currency"]) == ("0.5", "EUR")
    assert row["currency"] == "USD" and "billed" not in row["recomputed"]
    assert "  the vendor reports 0.5 EUR, which is not billed\n" in run(settings, "explain", "reported").stdout
    ((row,), _) = explained(settings, "half", "--tenant", "t-1")
    assert (row["reported_amount"], row["reported_currency"]) == (None, None)
    assert "reports" not in run(settings, "explain", "half").stdout


def test_what_of_the_call_decided_is_said(settings: Settings) -> None:
    ((row,), _) = explained(settings, "context")
    assert row["context"] == {"service_tier": "batch", "region": "eu", "processing": "fast"}
    (line,) = row["recomputed"]["lines"]
    assert (line["price"]["match"], line["price"]["service_tier"]) == ("prefix", "batch")
    text = run(settings, "explain", "context").stdout
    assert "  service tier batch, region eu, processing fast\n" in text
    assert "for the prefix 'ft:gpt-4o-mini-2024-', batch: from " in text


@pytest.mark.parametrize(
    ("event_id", "pricing", "lacking"),
    [("nothing", "unpriced", ["requests"]), ("no-price", "unpriced", ["gigabytes"]), ("zero", "priced", None)],
)
def test_what_has_no_price_is_named(settings: Settings, event_id: str, pricing: str, lacking: list[str] | None) -> None:
    ((row,), code) = explained(settings, event_id)
    assert (row["pricing"], row["recomputed"].get("lacking"), row["is_equal"], code) == (pricing, lacking, True, 0)
    assert row["amount"] == ("0" if pricing == "priced" else None)


def test_what_could_not_be_read_has_nothing_to_compute(settings: Settings) -> None:
    ((row,), code) = explained(settings, "unmetered")
    assert (row["recomputed"], row["is_equal"], code) == (None, True, 0)
    assert "no shape" in row["unmetered_reason"]
    assert "nothing to compute: no shape" in run(settings, "explain", "unmetered").stdout


def test_a_vendors_body_is_explained_by_what_it_counted(settings: Settings) -> None:
    ((row,), _) = explained(settings, "vendor")
    assert row["usage"] == {"input_tokens": 15, "output_tokens": 9, "cache_read_tokens": 5}
    assert [(line["unit"], line["quantity"]) for line in row["recomputed"]["lines"]] == [
        ("input_tokens", 10),
        ("output_tokens", 9),
        ("cache_read_tokens", 5),
    ]


def test_no_such_event(settings: Settings) -> None:
    assert explained(settings, "never") == ([], 1)
    assert explained(settings, "half", "--tenant", "t-2") == ([], 1)


async def test_a_charge_that_its_prices_do_not_give_is_told(settings: Settings, admin: Connection) -> None:
    change = "UPDATE meter.ledger SET amount = amount + $1 WHERE event_id = 'vendor'"
    await admin.execute("SET session_replication_role = replica")  # past the guard of the ledger
    await admin.execute(change, 1)
    try:
        ((row,), code) = await asyncio.to_thread(explained, settings, "vendor")
        assert (row["is_equal"], code) == (False, 1)
        done = await asyncio.to_thread(run, settings, "explain", "vendor")
        assert "NOT EQUAL" in done.stdout
    finally:
        await admin.execute(change, -1)


async def test_the_stored_book_can_be_asked_as_it_was_known(
    settings: Settings, admin: Connection, tmp_path: Path
) -> None:
    """Before the correction became known the old price was what we believed, for the same event."""
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps({"provider": "openai", "model": "gpt-4o", "usage": {"input_tokens": 10**6}}))

    async def check(*arguments: str) -> Result:
        return await asyncio.to_thread(run, settings, "price", "check", "--in", str(file), "--stored", *arguments)

    known = {row["revision"]: row["created_at"] for row in await admin.fetch("SELECT * FROM meter.price_revisions")}
    for moment, amount, revision in ((known[1], "2.5", 1), (known[2], "2.6", 2)):
        done = await check("--json", "--as-known-at", moment.isoformat())
        assert done.exception is None, done.exception
        answer = json.loads(done.stdout.splitlines()[0])
        assert (answer["amount"], answer["lines"][0]["price"]["revision"]) == (amount, revision)
    before = (known[1] - timedelta(microseconds=1)).isoformat()
    done = await check("--as-known-at", before)
    assert "unpriced" in done.stdout and done.return_value == 1


async def test_a_charge_can_be_computed_with_what_was_known_on_a_day(settings: Settings, admin: Connection) -> None:
    known = {row["revision"]: row["created_at"] for row in await admin.fetch("SELECT * FROM meter.price_revisions")}
    event_id = await admin.fetchval(
        "SELECT event_id FROM meter.ledger WHERE price_revision = 1 AND model = 'gpt-4o' AND pricing = 'priced'"
        " AND input_tokens > cache_read_tokens"
    )
    for moment, revision, is_equal in (
        (known[1], 1, True),
        (known[2] - timedelta(microseconds=1), 1, True),
        (known[2], 2, False),
        (known[1] - timedelta(microseconds=1), 0, False),
    ):
        at = ("--as-known-at", moment.isoformat())
        ((row,), code) = await asyncio.to_thread(explained, settings, event_id, *at)
        assert (row["price_revision"], row["computed_revision"]) == (1, revision)
        assert (row["is_equal"], code) == (is_equal, 0 if is_equal else 1)
    text = (await asyncio.to_thread(run, settings, "explain", event_id, "--as-known-at", known[2].isoformat())).stdout
    assert "computed again with revision 2: " in text and "NOT EQUAL" in text


def test_what_a_file_says_otherwise_is_named(settings: Settings) -> None:
    """The shipped prices against a database in which one of them was corrected."""
    done = run(settings, "price", "diff", "--json")
    assert done.exception is None, done.exception
    ((pair,), code) = json.loads(done.stdout), done.return_value
    assert (pair["file"]["rate"], pair["stored"]["rate"], pair["stored"]["revision"], code) == ("2.5", "2.6", 2, 1)
    text = run(settings, "price", "diff").stdout.splitlines()
    assert text[0].startswith("~ openai gpt-4o") and "2.6 USD / 1,000,000 (revision 2) -> 2.5 USD" in text[0]
    assert text[-1].startswith("1 price of ") and text[-1].endswith(" differs")


async def test_a_file_is_compared_with_what_was_known(settings: Settings, admin: Connection) -> None:
    first = await admin.fetchval("SELECT created_at FROM meter.price_revisions WHERE revision = 1")
    done = await asyncio.to_thread(run, settings, "price", "diff", "--as-known-at", first.isoformat())
    assert (done.exception, done.return_value) == (None, 0), "before the correction nothing differed"
    earlier = (first - timedelta(microseconds=1)).isoformat()
    done = await asyncio.to_thread(run, settings, "price", "diff", "--as-known-at", earlier)
    assert done.return_value == 1 and done.stdout.splitlines()[0].startswith("+ ")


async def test_a_running_rater_picks_up_what_price_add_wrote_and_rows_name_the_revision(settings: Settings) -> None:
    """From the command to the rows, over Postgres and the catalog's topic; no restart, and none in between."""
    options = client_options(settings)
    newest = max(row.revision for row in await listing.history(settings))
    model = {"provider": "acme", "model": "picked-up", "operation": "chat", "usage": {"pages": 3}}
    add = "price add --provider acme --model picked-up --unit pages --rate 0.7 --per 1000 --currency USD"
    async with running(options) as (stop, task, told):

        def revision() -> int:
            return int(told.reports[-1][3].get(Metric.RATER_PRICE_REVISION, 0)) if told.reports else 0

        await until(lambda: revision() == newest, task)
        sent = await publish(options, [event(0, tenant="before", data=model)])
        await until(lambda: decided(told) == sent, task)
        done = await asyncio.to_thread(
            run, settings, *add.split(), "--valid-from", "2026-01-01", "--source", "a contract"
        )
        assert (done.exception, done.stdout) == (None, f"revision {newest + 1}: 1 price added and published\n")
        await until(lambda: revision() == newest + 1, task)
        await publish(options, [event(1, tenant="after", data=model)])
        await until(lambda: decided(told) == sent + 1, task)
        stop.set()
        await task
    rows: list[Row] = []
    for record in await topic_log.read(options, PRICED):
        if not any(name == KIND_HEADER for name, _ in record.headers):
            rows += decode_pack(record.value).rows
    assert {(row.tenant, row.pricing, row.amount_pico, row.price_revision) for row in rows} == {
        ("before", "unpriced", None, newest),
        ("after", "priced", 2_100_000_000, newest + 1),
    }
