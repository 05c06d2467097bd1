"""What `meterstream doctor` finds on real servers, and what it says to do about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from meterstream.deploy import catalog, doctor, topics
from meterstream.deploy.cli.doctor import doctor as command
from meterstream.deploy.connections import resolve
from meterstream.deploy.doctor import Finding
from meterstream.deploy.prepare import prepare
from meterstream.deploy.stack import Addresses
from meterstream.schema.catalog import Entry, Head, Tenant, decode_entry
from meterstream.schema.cloudevents import STRUCTURED_HEADERS
from meterstream.schema.event import EVENT_TYPE
from meterstream.schema.settings import Settings
from tests.integration.priced_log import PricedLog

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERSTREAM_HOME", str(home))


async def wrong() -> dict[str, Finding]:
    """By what is wrong; the first of each."""
    found = await doctor.examine()
    return {finding.what: finding for finding in reversed(found) if finding.verdict == "wrong"}


async def test_1_servers_that_are_not_prepared_are_told_so() -> None:
    found = await wrong()
    assert set(found) == {"topics", "tables"}
    assert "is missing" in found["topics"].said and found["topics"].fix == "meterstream topics apply"
    assert "0001" in found["tables"].said and found["tables"].fix == "meterstream prepare"


async def test_2_what_is_prepared_is_well(home: Path) -> None:
    await prepare(Settings(home=home))
    assert await wrong() == {}
    said = await asyncio.to_thread(CliRunner().invoke, command, ["--json"], standalone_mode=False)
    assert said.return_value == 0
    answer = json.loads(said.stdout)
    assert answer["is_well"] is True
    assert {finding["what"] for finding in answer["findings"]} >= {
        "python",
        "home",
        "kafka",
        "topics",
        "clock",
        "prices",
    }


async def test_3_a_price_that_raters_do_not_know_is_found_and_its_fix_mends_it(home: Path, stack: Addresses) -> None:
    connection = await asyncpg.connect(stack.dsn())
    await connection.execute(
        "INSERT INTO meter.price_revisions (revision, reason, created_at) "
        "SELECT max(revision) + 1, 'test', now() FROM meter.price_revisions"
    )
    await connection.close()
    found = await wrong()
    assert set(found) == {"prices"} and "a rater prices by the highest" in found["prices"].said
    assert found["prices"].fix == "meterstream prepare publishes it"
    await prepare(Settings(home=home))
    assert await wrong() == {}


async def test_3_the_prices_of_another_database_on_the_same_broker_are_told_so(home: Path) -> None:
    settings = resolve(Settings(home=home), ["kafka_bootstrap"])
    before = await catalog.last_head(settings)
    assert before is not None
    for revision in (before.revision - 1, before.revision, before.revision + 1):
        await catalog._send(settings, [], Head(revision, datetime(2026, 1, 1, tzinfo=UTC)))
        found = (await wrong())["prices"]
        assert "a rater prices by the highest that it has read" in found.said
        is_older = revision < before.revision
        assert ("another database" in found.said, "prepare" in found.fix) == (not is_older, is_older)
    await catalog._send(settings, [], before)
    assert await wrong() == {}


@pytest.mark.parametrize("after", [0, 1000])
async def test_3_of_the_catalog_only_its_end_is_read(
    home: Path, stack: Addresses, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """It holds all prices: reading them takes longer than a busy machine may need for an answer."""
    settings = resolve(Settings(home=home), ["kafka_bootstrap"])
    await catalog._send(settings, [Tenant(tenant=f"t-{number}", privacy=False) for number in range(after)])
    read: list[Entry] = []

    def counted(value: bytes) -> Entry:
        read.append(decode_entry(value))
        return read[-1]

    monkeypatch.setattr(catalog, "decode_entry", counted)
    connection = await asyncpg.connect(stack.dsn())
    stored = await connection.fetchval("SELECT max(revision) FROM meter.price_revisions")
    await connection.close()
    head = await catalog.last_head(settings)
    assert head is not None and head.revision == stored
    assert 0 < len(read) < 5_000


@pytest.fixture(scope="module")
async def log(home: Path) -> AsyncIterator[PricedLog]:
    log = PricedLog(resolve(Settings(home=home)), datetime.now(UTC))
    yield log
    await log.close()


async def rate(log: PricedLog, first: int, *calls: dict[str, Any]) -> None:
    for number, data in enumerate(calls, start=first):
        event = {"specversion": "1.0", "type": EVENT_TYPE, "id": f"e{number}", "source": "s", "tenant": "t"}
        value = {**event, "time": datetime.now(UTC).isoformat(), "data": {"operation": "chat", **data}}
        await log.rate([(json.dumps(value).encode(), STRUCTURED_HEADERS)])


async def test_4_one_answer_that_nobody_could_read_is_found(log: PricedLog, stack: Addresses) -> None:
    await rate(log, 0, {"provider": "bedrock", "vendor_usage": {"usage": {"tokens_used": 5}}})
    found = await doctor.examine()
    assert not any(finding.what == "unpriced" for finding in found), "it lacks no price"
    (finding,) = (finding for finding in found if finding.what == "unmetered")
    assert finding.verdict == "wrong"
    assert finding.said.startswith("1 events of the last 7 days")
    assert "of aws: no shape that is known has the fields 'tokens_used'" in finding.said
    connection = await asyncpg.connect(stack.dsn())
    (row,) = await connection.fetch("SELECT * FROM meter.unmetered")
    (stated,) = await connection.fetch("SELECT stated_provider FROM meter.usage_events")
    await connection.close()
    assert (row["tenant"], row["day"], row["events"], row["last_event_id"]) == ("t", datetime.now(UTC).date(), 1, "e0")
    assert stated["stated_provider"] == "bedrock"


async def test_5_what_has_no_price_is_told_by_what_it_lacks(log: PricedLog) -> None:
    tokens = {"input_tokens": 5}
    await rate(
        log,
        1,
        {"provider": "openai", "model": "gpt-4o-mini", "usage": {"images": 3}},
        {"provider": "openai", "model": "gpt-4o-mini", "usage": {"images": 2}},
        {"provider": "openai", "model": "gpt-4o-mini", "usage": tokens},
        {"provider": "openai", "model": "our-own", "usage": tokens},
        {"provider": "openai", "model": "gpt-4o", "usage": tokens, "service_tier": "scale"},
        {"provider": "openai", "model": "gpt-4o", "vendor_usage": {"odd": 1}},
    )
    found = {}
    for finding in await doctor.examine():
        if finding.what == "unpriced":
            assert finding.verdict == "note"
            of_model, _, why = finding.said.partition(" have no price: ")
            found[of_model] = why, finding.fix
    of = "events of the last 7 days of openai"
    assert found.keys() == {f"2 {of} gpt-4o-mini", f"1 {of} our-own", f"1 {of} gpt-4o"}, "as many as are unpriced"
    add = "meterstream price add --provider openai --model"
    why, fix = found[f"2 {of} gpt-4o-mini"]
    assert why.endswith("has no price for images") and fix.startswith(f"{add} gpt-4o-mini --unit images ...")
    why, fix = found[f"1 {of} our-own"]
    assert why.startswith("there is no price for model 'our-own'")
    assert fix.startswith(f"{add} our-own --unit input_tokens ...")
    why, fix = found[f"1 {of} gpt-4o"]
    assert "'scale'" in why and fix.startswith(f"{add} gpt-4o --service-tier scale --unit input_tokens ...")


async def test_logins_that_are_refused_or_may_too_much_are_found(
    stack: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERSTREAM_POSTGRES_INGEST_DSN", stack.dsn())
    monkeypatch.setenv("METERSTREAM_POSTGRES_READER_DSN", stack.dsn("meterstream_reader", "not-its-password"))
    found = await wrong()
    assert "may do anything" in found["meterstream_ingest"].said
    assert found["meterstream_ingest"].fix == "let it log in as meterstream_ingest"
    assert "cannot log in" in found["meterstream_reader"].said and "--set-passwords" in found["meterstream_reader"].fix
    assert not any("not-its-password" in finding.said + finding.fix for finding in found.values())


async def test_a_topic_that_was_changed_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = resolve(Settings(home=home), ["kafka_bootstrap"])
    actual = await topics.describe(settings)
    raw = actual["usage.raw"]
    actual["usage.raw"] = topics.Actual(raw.partitions, raw.copies, {**raw.config, "retention.ms": "1"}, raw.own)

    async def described(_: Settings) -> dict[str, topics.Actual]:
        return actual

    monkeypatch.setattr(topics, "describe", described)
    assert "retention.ms is 1" in (await wrong())["topics"].said


async def test_servers_that_do_not_answer_are_named_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERSTREAM_KAFKA_BOOTSTRAP", "127.0.0.1:9")
    monkeypatch.setenv("METERSTREAM_POSTGRES_ADMIN_DSN", "postgresql://someone:hidden@127.0.0.1:9/db")
    found = await wrong()
    assert "METERSTREAM_KAFKA_BOOTSTRAP" in found["kafka"].said
    assert "METERSTREAM_POSTGRES_ADMIN_DSN" in found["postgres"].said and "hidden" not in found["postgres"].said


async def test_every_mistake_in_the_settings_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERSTREAM_NO_SUCH", "1")
    monkeypatch.setenv("METERSTREAM_METRICS_PORT", "many")
    said = [finding.said for finding in await doctor.examine() if finding.verdict == "wrong"]
    assert len(said) == 2 and "METERSTREAM_NO_SUCH" in said[0] and "METERSTREAM_METRICS_PORT" in said[1]


async def test_a_folder_without_servers_is_told_the_first_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERSTREAM_HOME", str(tmp_path / "new"))
    found = await wrong()
    assert set(found) == {"servers"} and found["servers"].fix == "meterstream up"
    assert not (tmp_path / "new").exists(), "it looks, and makes nothing"


async def test_no_answer_in_time_is_not_said_to_be_servers_that_are_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ASK_TIMEOUT_S", 0.001)

    async def forever() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    (found,) = [each async for each in doctor._asked("prices", forever)]
    assert (found.verdict, found.said) == ("wrong", "no answer within 0.001 s")
    assert "busy" in found.fix and "meterstream up" not in found.said + found.fix
