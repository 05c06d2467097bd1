"""A table is imported, killed, resumed, imported again and grown: the ledger is what the table says, each row once."""

from __future__ import annotations

import asyncio
import csv
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

from meterstream.deploy.cli.group import program
from meterstream.deploy.connections import administrator, resolve
from meterstream.deploy.prepare import prepare
from meterstream.deploy.running import supervisor
from meterstream.deploy.verify.run import verify
from meterstream.schema.settings import Settings
from tests.fault.roles import clean_environment
from tests.integration.test_publish import DIES

pytestmark = pytest.mark.stack

SMALL_CHUNKS = "from meterstream.producers import chunks; chunks.CHUNK_BYTES = 16 * 1024"
DEADLINE_S = 60.0
DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "import.md").read_text("utf-8")
SEED = 20261121
ROWS = 2_500
MAP = """
source: old-database
id: row
tenant: {column: customer, map: {One: acme, Two: globex}}
time: {column: at, format: unix_ms}
provider: {constant: openai}
model: {column: model}
operation: {constant: chat}
usage:
  input_tokens: {columns: [fresh, cached]}
  cache_read_tokens: {column: cached}
  output_tokens: {column: out}
format: {thousands: ","}
"""
PER_MILLION = {"fresh": Fraction("0.15"), "cached": Fraction("0.075"), "out": Fraction("0.6")}
"""gpt-4o-mini, as the vendor lists it: an oracle of its own, far from the code that prices."""


@pytest.fixture(scope="module")
def pipeline(home: Path) -> Iterator[Path]:
    asyncio.run(prepare(Settings(home=home)))
    supervisor.start(home, ["rater", "sink-postgres"], bind_to_parent=True)
    yield home
    supervisor.stop(home)


@pytest.fixture(autouse=True)
def _folder(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the commands that run in this process: a new one each costs more than what it does."""
    monkeypatch.setenv("METERSTREAM_HOME", str(pipeline))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(program, arguments, standalone_mode=False, catch_exceptions=False)


def killed(home: Path, after: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, killed after so many records; there a small table has many chunks."""
    return subprocess.run(
        [sys.executable, "-c", SMALL_CHUNKS + DIES, str(int(signal.SIGKILL)), str(after), *arguments],
        env=clean_environment() | {"METERSTREAM_HOME": str(home)},
        capture_output=True,
        text=True,
    )


def write(path: Path, random: Random, count: int) -> list[Fraction]:
    """Appends rows; returns what each costs."""
    costs = []
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(["customer", "at", "model", "fresh", "cached", "out"])
        for _ in range(count):
            # Few different rows: many are equal, and each of them counts.
            parts = {
                "fresh": random.randrange(3) * 1_000,
                "cached": random.randrange(3) * 400,
                "out": random.randrange(9),
            }
            at = 1_750_000_000_000 + random.randrange(3) * 86_400_000
            writer.writerow([random.choice(["One", "Two"]), at, "gpt-4o-mini", *(f"{n:,}" for n in parts.values())])
            costs.append(sum((PER_MILLION[name] * n for name, n in parts.items()), Fraction(0)) / 10**6)
    return costs


def ledger(home: Path, count: int, source: str = "old-database") -> tuple[int, Decimal]:
    """(rows, sum) once there are so many, and everything that was sent has been stored."""
    settings = resolve(Settings(home=home))

    async def read() -> tuple[int, Decimal]:
        async with administrator(settings) as connection:
            row = await connection.fetchrow("SELECT count(*), sum(amount) FROM meter.ledger WHERE source = $1", source)
            assert row is not None
            return row[0], row[1] or Decimal(0)

    async def settled() -> tuple[int, Decimal]:
        async with asyncio.timeout(DEADLINE_S):
            while (await read())[0] < count or not (await verify(settings, is_raw=True)).is_good:
                await asyncio.sleep(0.2)  # a poll with a deadline
            return await read()

    return asyncio.run(settled())


def test_each_row_is_charged_once_whatever_happens_to_the_import(pipeline: Path, tmp_path: Path) -> None:
    random = Random(SEED)
    table, mapping = tmp_path / "usage.csv", tmp_path / "map.yaml"
    mapping.write_text(MAP)
    costs = write(table, random, ROWS)
    arguments = ("import", "csv", str(table), "--map", str(mapping))

    dry = invoke(*arguments, "--dry-run")
    assert dry.return_value == 0, dry.stderr
    assert f"{ROWS:,} events: {ROWS:,} priced" in dry.stdout
    [said] = [line.split()[0] for line in dry.stdout.splitlines() if " USD at the prices of now" in line]
    assert Fraction(said) == sum(costs), f"seed {SEED}"

    ended = killed(pipeline, ROWS * 2 // 3, *arguments)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    resumed = invoke(*arguments)
    assert resumed.return_value == 0, resumed.stderr
    assert "; earlier runs had sent " in resumed.stdout, "it went on where it had stopped"
    assert "already" in invoke(*arguments).stdout

    # A file that has grown is sent from its start.
    costs += write(table, random, 500)
    with table.open("a") as file:
        file.write("Three,1750000000000,gpt-4o-mini,1,0,1\nOne,yesterday,gpt-4o-mini,1,0,1\n")
    grown = invoke(*arguments)
    assert grown.return_value == 1
    bad = ROWS + 500 + 2
    assert f"{table}:{bad}: tenant: 'Three'" in grown.stderr and f"{table}:{bad + 1}: time: 'yesterday'" in grown.stderr
    assert "2 bad rows were not sent" in grown.stderr
    rows, amount = ledger(pipeline, ROWS + 500)
    assert (rows, Fraction(amount)) == (ROWS + 500, sum(costs)), f"seed {SEED}"


def test_an_entry_by_hand_is_charged_once(pipeline: Path) -> None:
    [line] = re.findall(r"^\$ meterstream (record .*)$", DOCUMENTATION, re.MULTILINE)
    now = datetime.now(UTC)
    recent = (now - timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    old = (now - timedelta(days=40)).strftime("%Y-%m-%dT%H:%M:%SZ")
    arguments = [recent if word == "2026-11-01T09:15:00Z" else word for word in line.split()]
    cost = (1200 * PER_MILLION["fresh"] + 80 * PER_MILLION["out"]) / 10**6
    dry = invoke(*arguments, "--dry-run")
    assert (dry.return_value, dry.stdout) == (0, "priced: 0.000228 USD, to usage.raw; nothing was sent\n"), dry.stderr
    for _ in range(2):
        done = invoke(*arguments)
        assert done.stdout == f"ticket-4711 of {recent} sent to usage.raw and confirmed\n", done.stderr
    late = [old if word == recent else "late" if word == "ticket-4711" else word for word in arguments]
    assert "late of " in (said := invoke(*late).stdout) and "usage.backfill" in said
    rows, amount = ledger(pipeline, 2, "manual")
    assert (rows, Fraction(amount)) == (2, 2 * cost)
