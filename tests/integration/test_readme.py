"""The README's commands, snippet and queries do what it says, as written, in an empty folder."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from meterstream.deploy.connections import resolve
from meterstream.schema.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DEADLINE_S = 100.0
ELSEWHERE = ("git clone", "make demo", "make test")
"""`make demo` is what test_demo.py runs; `make test` is this."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("console") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(ELSEWHERE)]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METERSTREAM_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, as a newcomer has it; whatever runs in it is stopped at the end."""
    yield tmp_path
    print(run("meterstream logs", tmp_path).stdout)  # shown where the test has failed
    run("meterstream down", tmp_path)


async def stored_ids(folder: Path) -> list[str]:
    settings = resolve(Settings(home=folder / ".meterstream"), ["postgres_reader_dsn"])
    connection = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    try:
        return [row["event_id"] for row in await connection.fetch("SELECT event_id FROM meter.ledger")]
    finally:
        await connection.close()


async def publish_snippet(folder: Path) -> str:
    """Runs the README's Python block and returns the id that arrived in the ledger."""
    [snippet] = blocks("python")
    namespace: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), namespace)
    main = namespace["main"]
    assert callable(main)
    await main(resolve(Settings(home=folder / ".meterstream"), ["kafka_bootstrap"]).kafka_bootstrap)
    async with asyncio.timeout(DEADLINE_S):
        while not (ids := await stored_ids(folder)):
            await asyncio.sleep(0.1)  # a poll with a deadline
    return ids[0]


async def run_queries(folder: Path) -> tuple[list[list[asyncpg.Record]], bool]:
    """What the queries find, and whether it is still the (UTC) day of the event: one of them asks for today."""
    settings = resolve(Settings(home=folder / ".meterstream"), ["postgres_reader_dsn"])
    connection = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    try:
        [block] = blocks("sql")
        async with connection.transaction():  # in which time stands still
            found = [await connection.fetch(query) for query in block.split(";") if query.strip()]
            day = await connection.fetchval("SELECT day = current_date FROM meter.usage_daily")
        return found, day
    finally:
        await connection.close()


async def test_every_command_of_the_readme(folder: Path) -> None:
    listed = commands()
    assert listed[0] == "meterstream up --roles" and listed[-1] == "meterstream down"
    event_id = ""
    for command in listed:
        if command == "meterstream down":
            (spend_by_model, last_hour, without_price), is_today = await run_queries(folder)
            assert [row["model"] for row in spend_by_model] == (["gpt-4o-mini"] if is_today else [])
            assert last_hour and last_hour[0]["amount"] > 0
            assert without_price == []
        done = run(command.replace("<event id>", event_id), folder)
        while command == "meterstream status" and "starting" in done.stdout:  # roles take their time, and it says so
            done = run(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command == "meterstream up --roles":
            event_id = await publish_snippet(folder)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_document_is_linked() -> None:
    linked = set(re.findall(r"\]\((?!http)([^)#]+)", README))
    for path in (ROOT / "docs").glob("*.md"):
        assert f"docs/{path.name}" in linked, path.name
