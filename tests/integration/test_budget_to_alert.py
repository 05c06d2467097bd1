"""From a budget to its alerts, with every role running, by the command line alone; docs/alerts.md as written."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from meterstream.deploy.connections import reader, resolve
from meterstream.deploy.prepare import prepare
from meterstream.deploy.running import supervisor
from meterstream.producers import MeterClient
from meterstream.schema.alert import alert_id, decode_alert, encode_alert
from meterstream.schema.ids import uuid7
from meterstream.schema.settings import Settings
from tests.fault.roles import clean_environment

pytestmark = pytest.mark.stack

DOCUMENT = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text("utf-8")
MAIN = "from meterstream.deploy.cli import main; main()"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def pipeline(home: Path) -> Iterator[Path]:
    """The folder, with every role running."""
    asyncio.run(prepare(Settings(home=home)))
    supervisor.start(home, supervisor.known(()), bind_to_parent=True)
    yield home
    supervisor.stop(home)


def command(home: Path, *arguments: str) -> str:
    """What `meterstream ...` prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        env=clean_environment() | {"METERSTREAM_HOME": str(home)},
        cwd=home.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(look: Callable[[], Any], is_there: Callable[[Any], bool]) -> Any:
    """A poll with a deadline."""
    end = time.monotonic() + DEADLINE_S
    while not is_there(found := look()):
        assert time.monotonic() < end, found
    return found


def calls(tenant: str, count: int, now: datetime) -> str:
    """JSON lines, one call each that costs 1 EUR."""
    data = {"provider": "acme", "model": "m", "operation": "chat", "usage": {"input_tokens": 1000}}
    event = {"specversion": "1.0", "type": "meterstream.usage.v1", "source": "shop", "tenant": tenant, "data": data}
    return "".join(json.dumps(event | {"id": uuid7(now), "time": now.isoformat()}) + "\n" for _ in range(count))


def test_from_a_budget_to_its_alerts(pipeline: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    far = str((now.day + 14) % 28 + 1)  # the month's end is nowhere near
    command(
        pipeline, "price", "add", "--provider", "acme", "--model", "m", "--unit", "input_tokens", "--rate", "1",
        "--per", "1000", "--currency", "EUR", "--valid-from", "2026-01-01", "--source", "test",
    )  # fmt: skip
    command(
        pipeline, "budget", "add", "shop", "--tenant", "globex", "--amount", "10", "--currency", "EUR",
        "--anchor-day", far, "--zone", "Europe/Berlin", "--threshold", "50", "--threshold", "80", "--threshold", "100",
    )  # fmt: skip
    until(
        lambda: json.loads(command(pipeline, "top", "--once", "--json"))["tenants"],
        lambda tenants: "globex" in [tenant["tenant"] for tenant in tenants],
    )
    file = tmp_path / "calls.jsonl"
    file.write_text(calls("globex", 9, now))
    command(pipeline, "publish", str(file))

    tail = subprocess.Popen(
        [sys.executable, "-c", MAIN, "alerts", "tail", "--from-beginning", "--json"],
        env=clean_environment() | {"METERSTREAM_HOME": str(pipeline)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tail.stdout is not None
    raised: list[dict[str, Any]] = []
    while len(raised) < 2:
        line = tail.stdout.readline()
        assert line, tail.communicate()
        raised += [json.loads(line)] if '"globex"' in line else []
    tail.send_signal(signal.SIGINT)
    rest, said = tail.communicate()
    assert (tail.returncode, rest, said) == (0, "", "")
    assert [(alert["data"]["percent"], alert["data"]["spent"]) for alert in raised] == [(50, "5"), (80, "8")]

    kept = until(
        lambda: command(pipeline, "alerts", "ls", "--tenant", "globex", "--json").splitlines(), lambda a: a[1:]
    )
    assert [json.loads(line) for line in kept] == raised, "the same from the topic and from Postgres"
    lines = command(pipeline, "alerts", "ls", "--since", "1h", "--budget", "shop").splitlines()
    assert len(lines) == 2
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  globex  shop: 80 % reached, spent 8 of 10 EUR", lines[1])
    for none in (["--since", "2100-01-01"], ["--budget", "sho"], ["--tenant", "globe"], ["--since", "0m"]):
        assert "no alert fits" in command(pipeline, "alerts", "ls", *none)

    [row] = until(
        lambda: json.loads(command(pipeline, "budget", "ls", "--tenant", "globex", "--json")),
        lambda rows: rows[0]["state"] and rows[0]["state"]["spent"] == "9",
    )
    assert (row["state"]["percent"], row["state"]["reached"], row["state"]["provisional"]) == ("90.00", [50, 80], False)
    text = command(pipeline, "budget", "ls")
    assert "spent 9 EUR, 90.00 %; 1 EUR left; reached 50, 80 %" in text and "begins at zero again at" in text
    table = until(
        lambda: command(pipeline, "top", "--once"), lambda text: "9 EUR" in text or now.day != datetime.now(UTC).day
    )
    assert "shop 90.00%" in table


PUBLISHING = (Path(__file__).parents[2] / "docs" / "publish.md").read_text("utf-8")


def test_top_goes_on_until_ctrl_c_and_ends_cleanly(pipeline: Path) -> None:
    top = subprocess.Popen(
        [sys.executable, "-c", MAIN, "top", "--json"],
        env=clean_environment() | {"METERSTREAM_HOME": str(pipeline)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert top.stdout is not None
    shown = [json.loads(top.stdout.readline()) for _ in range(2)]
    top.send_signal(signal.SIGINT)
    _, said = top.communicate()
    assert (top.returncode, said) == (0, "")
    assert shown[0]["at"] < shown[1]["at"]
    assert "globex" in [tenant["tenant"] for tenant in shown[1]["tenants"]]


# docs/alerts.md


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_documents_commands_do_what_it_says(pipeline: Path) -> None:
    for line in "".join(blocks("console")).splitlines():
        name, *arguments = shlex.split(line)
        assert name == "meterstream"
        command(pipeline, *arguments)
    assert [row["name"] for row in json.loads(command(pipeline, "budget", "ls", "--tenant", "acme", "--json"))] == [
        "monthly"
    ]


def test_the_documents_alert_is_one() -> None:
    [example] = blocks("json")
    alert = decode_alert(example.encode())
    data = alert.data
    assert alert.id == alert_id(alert.tenant, data.budget, data.version, data.period_start, data.percent)
    assert json.loads(encode_alert(alert)) == json.loads(example)


async def test_the_documents_subscriber_meets_every_alert(pipeline: Path) -> None:
    [snippet] = blocks("python")
    namespace: dict[str, Any] = {}
    exec(compile(snippet, "alerts.md", "exec"), namespace)
    found: list[dict[str, Any]] = []

    class Enough(Exception):
        pass

    async def collect(alert: dict[str, Any]) -> None:
        await namespace["page"](alert)
        found.append(alert)
        if len([alert for alert in found if alert["tenant"] == "globex"]) == 2:
            raise Enough

    bootstrap = resolve(Settings(home=pipeline), ["kafka_bootstrap"]).kafka_bootstrap
    with pytest.raises(Enough):
        async with asyncio.timeout(DEADLINE_S):
            await namespace["follow"](bootstrap, collect)
    assert [alert["data"]["percent"] for alert in found if alert["tenant"] == "globex"] == [50, 80]


async def test_the_documents_queries_find_budgets_and_alerts(pipeline: Path) -> None:
    settings = resolve(Settings(home=pipeline), ["postgres_reader_dsn"])
    [block] = blocks("sql")
    async with reader(settings) as connection:
        status, week, current = [await connection.fetch(query) for query in block.split(";") if query.strip()]
    assert {row["tenant"] for row in status} == {"globex", "acme"} == {row["tenant"] for row in current}
    assert week == []  # acme has reached nothing


def test_each_role_tells_prometheus_what_it_did(pipeline: Path) -> None:
    def scraped() -> dict[str, dict[tuple[str, ...], float]]:
        """role -> (name, other labels' values) -> value, of what is running."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for role in json.loads(command(pipeline, "status", "--json"))["roles"]:
            with urllib.request.urlopen(f"http://{role['endpoint']}/metrics") as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
            ours = [sample for family in families for sample in family.samples if "role" in sample.labels]
            assert {sample.labels.pop("role") for sample in ours} == {role["name"]}
            found[role["name"]] = {(sample.name, *sample.labels.values()): sample.value for sample in ours}
        return found

    rows = ("meterstream_sink_rows_total", "ledger")
    found = until(scraped, lambda found: all(each["meterstream_lag_records",] == 0 for each in found.values()))
    assert set(found) == {"rater", "aggregator", "sink-postgres"}
    for figures in found.values():
        assert figures["meterstream_state", "running"] == 1 and figures["meterstream_state", "starting"] == 0
        assert figures["meterstream_lag_seconds",] == 0
        assert figures["meterstream_rebalances_total",] >= 1
        assert figures["meterstream_batch_seconds_bucket", "+Inf"] == figures["meterstream_batch_seconds_count",] > 0
    assert found["rater"]["meterstream_rater_events_total", "priced"] == found["sink-postgres"][rows] == 9
    assert found["aggregator"]["meterstream_aggregator_rows_total", "counted"] == 9
    assert found["aggregator"]["meterstream_aggregator_sent_total", "alerts"] == 2
    assert found["sink-postgres"]["meterstream_sink_rows_total", "alerts"] == 2
    assert found["sink-postgres"]["meterstream_sink_leaves_ahead",] == Settings().partitions_ahead
    assert time.time() - 3600 < found["sink-postgres"]["meterstream_sink_freshness_timestamp_seconds",] < time.time()


def test_what_a_client_records_is_charged_once_by_operation_and_keeps_privacy(pipeline: Path, tmp_path: Path) -> None:
    settings = resolve(Settings(home=pipeline))
    command(
        pipeline, "price", "add", "--provider", "hooli", "--model", "m", "--unit", "input_tokens", "--rate", "1",
        "--per", "1000", "--currency", "EUR", "--valid-from", "2026-01-01", "--source", "test",
    )  # fmt: skip
    command(pipeline, "tenant", "set", "private", "--privacy", "on")
    call: dict[str, Any] = {"provider": "hooli", "operation": "chat"}
    estimate = {"input_tokens": 1000, "output_tokens": 0}
    secret: Any = {"ip": "203.0.113.7", "user_agent": "secret-agent"}

    async def look(query: str) -> list[dict[str, Any]]:
        async with reader(settings) as connection:
            return [dict(row) for row in await connection.fetch(query)]

    with MeterClient("app", bootstrap_servers=settings.kafka_bootstrap, spool=tmp_path, on_error="raise") as meter:

        def prices_are_known() -> list[dict[str, Any]]:
            meter.record(**call, tenant="probe", model="m", usage=estimate)
            return asyncio.run(look("SELECT 1 FROM meter.usage_events WHERE tenant = 'probe' AND amount IS NOT NULL"))

        until(prices_are_known, bool)
        with meter.stream(**call, tenant="acme", model="m", attempt=1, usage=estimate) as first:
            pass
        meter.record(**call, tenant="acme", model="m", usage={"input_tokens": 2000}, operation_id=first.id, attempt=2)
        with meter.stream(**call, tenant="acme", model="m", usage=estimate) as ended:
            ended.finish(usage={"input_tokens": 5000})
        answer = {"model": "m", "usage": {"prompt_tokens": 3000, "completion_tokens": 0}, "choices": "secret-answer"}
        private = meter.record_response("hooli", answer, tenant="private", **secret)
        meter.record_response("hooli", answer, tenant="open", **secret)

    every = "SELECT * FROM meter.usage_events WHERE source = 'app' AND tenant <> 'probe'"
    rows = until(lambda: asyncio.run(look(every)), lambda rows: len(rows) == 5 and all(row["amount"] for row in rows))
    by_id = {row["event_id"]: row for row in rows}
    broken = by_id[first.id]
    assert (broken["amount"], broken["estimated"], broken["status"], broken["attempt"]) == (1, True, "cancelled", 1)
    assert (by_id[ended.id]["amount"], by_id[ended.id]["estimated"]) == (5, False)
    [query] = re.findall(r"```sql operations\n(.*?)```", PUBLISHING, re.DOTALL)
    [operation] = asyncio.run(look(query))
    assert list(operation.values()) == [first.id, 2, 1, 1, ["m", "m"], "EUR", 3]
    assert (by_id[str(private)]["ip"], by_id[str(private)]["user_agent"]) == (None, None)
    assert sorted(str(row["user_agent"]) for row in rows if row["user_agent"]) == ["secret-agent"]
    assert "secret-answer" not in str(rows)
    assert asyncio.run(look("SELECT 1 FROM meter.rejected")) == []


def test_the_simulators_totals_are_those_of_the_ledger(pipeline: Path) -> None:
    said = json.loads(
        command(
            pipeline, "simulate", "--seed", "7", "--events", "3000", "--profile", "full", "--tenants", "9", "--json"
        )
    )
    assert (said["seed"], said["sent"], said["topic"]) == (7, 3000, "usage.raw")
    assert said["sent"] == said["ledger"] + said["duplicates"] + said["rejected"]
    assert said["rejected"] == sum(said["rejected_by_reason"].values()) > 0 < said["duplicates"]

    async def stored() -> dict[str, Any]:
        async with reader(resolve(Settings(home=pipeline), ["postgres_reader_dsn"])) as connection:
            rows = await connection.fetch(
                "SELECT currency, count(*), trim_scale(sum(amount))::text AS amount FROM meter.usage_events"
                " WHERE source = $1 GROUP BY 1",
                said["source"],
            )
            duplicates = await connection.fetchval(
                "SELECT count(*) FROM meter.duplicates WHERE source = $1", said["source"]
            )
            rejected = await connection.fetch("SELECT reason, count(*) FROM meter.rejected GROUP BY 1")
        return {
            "ledger": sum(row["count"] for row in rows),
            "unpriced": sum(row["count"] for row in rows if row["currency"] == "XXX"),
            "duplicates": duplicates,
            "rejected_by_reason": {row["reason"]: row["count"] for row in rejected},
            "amounts": {row["currency"]: row["amount"] for row in rows if row["currency"] != "XXX"},
        }

    wanted = {name: said[name] for name in ("ledger", "unpriced", "duplicates", "rejected_by_reason", "amounts")}
    until(lambda: asyncio.run(stored()), lambda found: found == wanted)


async def priced_rows(home: Path, source: str) -> list[asyncpg.Record]:
    """Of one run of the simulator."""
    async with reader(resolve(Settings(home=home), ["postgres_reader_dsn"])) as connection:
        return await connection.fetch(
            "SELECT model, occurred_at, input_tokens, output_tokens, amount FROM meter.usage_events"
            " WHERE source = $1 AND currency <> 'XXX'",
            source,
        )


@pytest.mark.parametrize("run", ["first", "second"])
def test_a_price_that_changes_in_the_middle_is_charged_on_both_sides(pipeline: Path, run: str) -> None:
    """Twice with one seed: neither run meets the other's ids or prices."""
    asked = ["simulate", "--seed", "3", "--events", "2000", "--tenants", "9", "--price-change", "--json"]
    said = json.loads(command(pipeline, *asked))
    charged = said["ledger"] - said["unpriced"]
    rows = until(lambda: asyncio.run(priced_rows(pipeline, said["source"])), lambda rows: len(rows) == charged)
    assert sum(row["amount"] for row in rows) == Decimal(said["amounts"]["USD"])

    of_model = [row for row in rows if row["model"] == said["price_change"]["model"]]
    assert len(of_model) > 100
    by_time = {row["occurred_at"]: row for row in of_model}
    at = datetime.fromisoformat(said["price_change"]["at"])
    for moment, input_rate, output_rate in (
        (at - timedelta(milliseconds=1), "0.37", "2.9"),
        (at, "0.2123456789", "3.1000000007"),
    ):
        row = by_time[moment]
        lines = ((row["input_tokens"], input_rate), (row["output_tokens"], output_rate))
        pico = sum(round(Fraction(count) * Fraction(rate) * 10**6) for count, rate in lines)
        assert row["amount"] == Decimal(pico).scaleb(-12)
