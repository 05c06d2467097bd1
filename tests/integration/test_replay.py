"""Rejected events: listed, shown, mended and sent again, once; or let be. By the command line, on real roles."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from meterstream.deploy.connections import administrator, resolve
from meterstream.deploy.prepare import prepare
from meterstream.deploy.running import supervisor
from meterstream.schema.settings import Settings
from tests.fault.roles import clean_environment

pytestmark = pytest.mark.stack

MAIN = "from meterstream.deploy.cli import main; main()"
DEADLINE_S = 60.0
RAW = "usage.raw"


@pytest.fixture(scope="module")
def pipeline(home: Path) -> Iterator[Path]:
    asyncio.run(prepare(Settings(home=home)))
    supervisor.start(home, ["rater", "sink-postgres"], bind_to_parent=True)
    yield home
    supervisor.stop(home)


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        env=clean_environment() | {"METERSTREAM_HOME": str(home)},
        cwd=home.parent,
        capture_output=True,
        text=True,
    )


def said(home: Path, *arguments: str, code: int = 0) -> str:
    done = command(home, *arguments)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


def event(event_id: str, tenant: str = "acme", **changed: Any) -> dict[str, Any]:
    usage = {"input_tokens": 1_000_000}
    data = {"provider": "openai", "model": "gpt-4o-mini", "operation": "chat", "usage": usage} | changed.pop("data", {})
    return {
        "specversion": "1.0", "type": "meterstream.usage.v1", "source": "shop", "id": event_id, "tenant": tenant,
        "time": datetime.now(UTC).isoformat(), "data": data,
    } | changed  # fmt: skip


def publish(home: Path, *values: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> None:
    async def send() -> None:
        settings = resolve(Settings(home=home), ["kafka_bootstrap"])
        async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
            for value in values:
                await producer.send_and_wait(RAW, value, key=b"acme", headers=list(headers))

    asyncio.run(send())


def rejected(home: Path, count: int, *options: str) -> list[dict[str, Any]]:
    """As many as are listed, once they are there."""
    end = time.monotonic() + DEADLINE_S
    while True:
        found = [json.loads(line) for line in said(home, "rejected", "ls", "--json", *options).splitlines()]
        if len(found) == count:
            return found
        assert time.monotonic() < end and len(found) < count, found


def ledger(home: Path, *ids: str) -> list[tuple[str, str, Any]]:
    """(id, model, amount) of these, once as many are there."""

    async def ask() -> list[tuple[str, str, Any]]:
        async with administrator(resolve(Settings(home=home))) as connection:
            rows = await connection.fetch(
                "SELECT event_id, model, amount FROM meter.ledger WHERE event_id = ANY($1) ORDER BY 1", list(ids)
            )
            return [tuple(row) for row in rows]

    end = time.monotonic() + DEADLINE_S
    while len(found := asyncio.run(ask())) < len(ids):
        assert time.monotonic() < end, found
    return found


def test_what_was_mended_is_charged_once_and_the_trail_says_who_and_why(pipeline: Path) -> None:
    bad = [event(f"mend-{n}", data={"usage": {"input_token": (n + 1) * 1_000_000}}) for n in range(2)]
    publish(pipeline, json.dumps(bad).encode(), json.dumps(event("mend-2", data={"colour": "red"})).encode())
    found = rejected(pipeline, 3, "--tenant", "acme")
    assert [(each["event_id"], each["reason"]) for each in found] == [
        ("mend-0", "unknown_unit"), ("mend-1", "unknown_unit"), ("mend-2", "unknown_field"),
    ]  # fmt: skip

    unchanged = said(pipeline, "replay", "--reason", "unknown_unit", code=1)
    assert "2 rejected" in unchanged and "unknown_unit: " in unchanged and "nothing was sent" not in unchanged
    alike = ("--set", "data.usage.input_tokens=7", "--unset", "data.usage.input_token")
    warned = said(pipeline, "replay", "--reason", "unknown_unit", *alike)
    assert "all 2 events the same quantity" in warned and "--rename" in warned
    edits = ("--rename", "data.usage.input_token=data.usage.input_tokens")
    dry = said(pipeline, "replay", "--reason", "unknown_unit", *edits)
    assert "2 priced" in dry and "charges grow by 0.45 USD" in dry and "nothing was sent" in dry
    assert "input_token 2,000,000 -> input_tokens 2,000,000" in dry
    assert "in all: input_token 3,000,000 -> input_tokens 3,000,000" in dry and "the same quantity" not in dry
    assert len(rejected(pipeline, 3, "--tenant", "acme")) == 3, "a dry run settles nothing"
    refused = command(pipeline, "replay", "--reason", "unknown_unit", *edits, "--yes")
    assert refused.returncode == 2 and "--note" in refused.stderr

    sending = (*edits, "--yes", "--note", "typo", "--by", "ada")
    done = json.loads(said(pipeline, "replay", "--reason", "unknown_unit", *sending, "--json"))
    assert [(each["usage_before"], each["usage_after"]) for each in done["events"]] == [
        ({"input_token": 1_000_000}, {"input_tokens": 1_000_000}),
        ({"input_token": 2_000_000}, {"input_tokens": 2_000_000}),
    ]
    assert (done["sent"], done["amounts"], {each["topic"] for each in done["events"]}) == (2, {"USD": "0.45"}, {RAW})
    charged = ledger(pipeline, "mend-0", "mend-1")
    assert [(each[0], f"{each[2]:f}") for each in charged] == [
        ("mend-0", "0.150000000000"),
        ("mend-1", "0.300000000000"),
    ]
    [left] = rejected(pipeline, 1, "--tenant", "acme")
    assert left["event_id"] == "mend-2"

    again = said(pipeline, "replay", *[each["place"] for each in found[:2]], *edits)
    assert "2 charged already" in again and "charges grow" not in again
    settled = rejected(pipeline, 3, "--tenant", "acme", "--all")[0]["settled"]
    assert (settled["action"], settled["note"], settled["by"]) == ("replayed", "typo", "ada, as postgres")

    assert "skipped 1 event" in said(pipeline, "rejected", "skip", left["place"], "--note", "a test")
    assert rejected(pipeline, 0, "--tenant", "acme") == []
    assert "no rejected event fits" in said(pipeline, "rejected", "skip", left["place"], "--note", "twice", code=1)
    assert "[skipped: a test]" in said(pipeline, "rejected", "ls", "--all")
    (skipped,) = (each for each in rejected(pipeline, 3, "--tenant", "acme", "--all") if each["event_id"] == "mend-2")
    me = f"{pwd.getpwuid(os.geteuid()).pw_name}@{socket.gethostname()}, as postgres"
    assert skipped["settled"]["by"] == me, "who it was, not only the login that all operators share"


def test_what_is_too_old_for_one_topic_goes_to_the_other(pipeline: Path) -> None:
    then = (datetime.now(UTC) - timedelta(days=50)).isoformat()
    publish(pipeline, json.dumps(event("old-1", tenant="old", time=then)).encode())
    [found] = rejected(pipeline, 1, "--tenant", "old")
    assert found["reason"] == "too_old"
    assert said(pipeline, "rejected", "show", found["place"], "--body").startswith('{"specversion"')
    assert "to usage.backfill" in said(pipeline, "replay", found["place"], "--yes", "--note", "backfill")
    assert ledger(pipeline, "old-1")[0][:2] == ("old-1", "gpt-4o-mini")


def test_bytes_that_were_cut_or_withheld_come_from_the_topic(pipeline: Path) -> None:
    said(pipeline, "tenant", "set", "shy", "--privacy", "on")
    long = event("cut-1", tenant="long", colour="x", data={"tags": {}, "colour": "y" * 70_000})
    hidden = event("shy-1", tenant="shy", data={"colour": "red"})
    publish(pipeline, json.dumps(long).encode(), json.dumps(hidden).encode())
    for tenant, event_id in (("long", "cut-1"), ("shy", "shy-1")):
        [found] = rejected(pipeline, 1, "--tenant", tenant)
        done = said(pipeline, "replay", found["place"], "--unset", "data.colour", "--yes", "--note", "colour")
        assert "sent 1 event" in done
        assert ledger(pipeline, event_id)


def test_an_event_in_binary_mode_keeps_its_attributes(pipeline: Path) -> None:
    content = event("binary-1", tenant="bin", data={"colour": "red"})
    data = content.pop("data")
    headers = tuple((f"ce_{name}", value.encode()) for name, value in content.items())
    publish(pipeline, json.dumps(data).encode(), headers=(*headers, ("content-type", b"application/json")))
    [found] = rejected(pipeline, 1, "--tenant", "bin")
    said(pipeline, "replay", found["place"], "--unset", "colour", "--yes", "--note", "colour")
    assert ledger(pipeline, "binary-1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("replay",), "say which"),
        (("rejected", "skip", "--note", "all"), "say which"),
        (("replay", "usage.raw/0"), "no place such as usage.raw/0/12/3"),
        (("rejected", "show", "usage.raw/0/999999/0"), "nothing was rejected at"),
        (("rejected", "ls", "--reason", "nope"), "no reason"),
        (("replay", "--tenant", "x", "--set", "model"), "FIELD=VALUE"),
        (("replay", "--tenant", "x", "--rename", "model"), "OLD=NEW"),
    ],
)
def test_what_was_asked_wrongly_is_said(pipeline: Path, arguments: tuple[str, ...], expected: str) -> None:
    done = command(pipeline, *arguments)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr
