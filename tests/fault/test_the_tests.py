"""Is a broken sink noticed? Each protection is taken away in turn, and the comparison must find differences.

With the sink as it is, the same schedules leave no difference: that is the control.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterstream.deploy import database, stack
from meterstream.deploy.connections import resolve
from meterstream.deploy.verify import run as whole
from meterstream.schema import coverage
from meterstream.schema.coverage import Prefixes
from meterstream.schema.errors import Fenced
from meterstream.schema.settings import Settings
from meterstream.sinks.postgres import claims, fence, positions, rollups
from meterstream.sinks.postgres.connection import Connection, connect
from tests.fault.memory import Log, SinkProcess, book_of, empty
from tests.fault.postgres_dump import dump
from tests.fault.workload import catalog_records, oracle_prices, price_entries, usage
from tests.oracle.compare import compare
from tests.oracle.model import Expected, expect

pytestmark = pytest.mark.stack

SEED = 11
EVENTS = 1_500
NOW = datetime.now(UTC)
ENTRIES = price_entries(NOW - timedelta(hours=2))

Schedule = Callable[["Bench"], Awaitable[None]]


class Bench:
    """A log, two sessions for sinks, and the judgement at the end."""

    def __init__(
        self, settings: Settings, log: Log, expected: Expected, admin: Any, sessions: list[Connection]
    ) -> None:
        self.settings = settings
        self.log = log
        self.expected = expected
        self.admin = admin
        self.sessions = sessions

    def sink(self, number: int) -> SinkProcess:
        return SinkProcess(self.sessions[number], self.log)

    def rate_all(self) -> None:
        """Two lives of a rater: the first dies before it has covered and committed its second half."""
        book = book_of(value for key, value in catalog_records(ENTRIES) if key != b"head")
        for partition, records in self.log.raw.items():
            half, most, end = len(records) // 2, len(records) * 3 // 4, len(records)
            self.log.rate(book, partition, 0, half)
            self.log.rate(book, partition, half, most, is_covered=False)
            self.log.rate(book, partition, half, end)

    async def differences(self) -> list[str]:
        return compare(self.expected, await dump(self.admin))


@pytest.fixture(scope="module")
async def settings(home: Path) -> Settings:
    found = resolve(Settings(home=home), ["postgres_admin_dsn", "postgres_ingest_dsn", "postgres_reader_dsn"])
    logins = ("meterstream_ingest", "meterstream_reader")
    await database.prepare(found, passwords={login: stack.password(home, login) for login in logins})
    return found


@pytest.fixture
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    log = Log()
    log.publish(usage(SEED, EVENTS, NOW - timedelta(hours=2)), int(datetime.now(UTC).timestamp() * 1000))
    admin = await asyncpg.connect(settings.postgres_admin_dsn.get_secret_value())
    sessions = [await connect(settings.postgres_ingest_dsn.get_secret_value()) for _ in range(3)]
    for session in sessions:
        await rollups.open_session(session)
    await empty(admin)
    yield Bench(settings, log, expect(log.for_oracle(), oracle_prices(ENTRIES)), admin, sessions)
    for session in sessions:
        session.terminate()
    await admin.close()


class Crash(Exception):
    """The sink dies here."""


async def repeats_of_the_rater(bench: Bench) -> None:
    """Half of what the first rater sent comes again from the second."""
    bench.rate_all()
    sink = bench.sink(0)
    await sink.claim()
    await sink.drain()


async def a_zombie_wakes_up(bench: Bench) -> None:
    """A sink holds a batch while another takes over and stores everything; then it goes on."""
    bench.rate_all()
    zombie, successor = bench.sink(0), bench.sink(1)
    await zombie.claim()
    zombie.take(5)
    await zombie.store()
    zombie.take(5)
    await successor.claim()
    await successor.drain()
    try:
        await zombie.store()
    except Fenced:
        return
    raise AssertionError("the zombie was not refused")


async def a_crash_between_the_tables(bench: Bench) -> None:
    """The process ends after ledger and claims, before the rollups; its successor begins anew."""
    bench.rate_all()
    sink = bench.sink(0)
    await sink.claim()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollups, "add", _die)
        sink.take(50)
        with pytest.raises(Crash):
            await sink.store()
    successor = bench.sink(1)
    await successor.claim()
    await successor.drain()


async def _die(*_: object) -> None:
    raise Crash


@pytest.mark.parametrize("schedule", [repeats_of_the_rater, a_zombie_wakes_up, a_crash_between_the_tables])
async def test_the_sink_as_it_is_leaves_no_difference(bench: Bench, schedule: Schedule) -> None:
    print(f"seed {SEED}")
    await schedule(bench)
    assert await bench.differences() == []
    result = await whole.verify(bench.settings)
    assert result.is_good, result
    found = bench.expected
    assert found.duplicates and "conflict" in found.rejected.values() and len(found.ledger) > EVENTS // 2


async def test_without_the_compare_and_set_a_zombie_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "move", _move_whatever_is_there)
    with pytest.raises(AssertionError, match="not refused"):
        await a_zombie_wakes_up(bench)
    assert await bench.differences() != []


async def test_without_the_position_guard_repeats_are_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "advance", _nothing_is_covered)
    await repeats_of_the_rater(bench)
    assert await bench.differences() != []
    assert not (await whole.verify(bench.settings)).is_good


async def test_with_claims_outside_the_transaction_a_crash_is_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bench.sessions[2]
    add = claims.add

    async def add_elsewhere(_: Connection, rows: Any) -> None:
        await add(other, rows)

    monkeypatch.setattr(claims, "add", add_elsewhere)
    await a_crash_between_the_tables(bench)
    assert any(difference.startswith("ledger") for difference in await bench.differences())
    assert not (await whole.verify(bench.settings)).is_good


async def test_with_rollups_outside_the_transaction_a_crash_is_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bench.sessions[2]
    add = rollups.add

    async def add_elsewhere(_: Connection, rows: Any) -> None:
        async with other.transaction():
            await add(other, rows)
        raise Crash

    bench.rate_all()
    sink = bench.sink(0)
    await sink.claim()
    with monkeypatch.context() as patch:
        patch.setattr(rollups, "add", add_elsewhere)
        sink.take(50)
        with pytest.raises(Crash):
            await sink.store()
    successor = bench.sink(1)
    await successor.claim()
    await successor.drain()
    assert any(difference.startswith("hourly") for difference in await bench.differences())
    assert not (await whole.verify(bench.settings)).is_good


async def _move_whatever_is_there(connection: Connection, moves: Any) -> None:
    for move in moves:
        await connection.execute(
            "UPDATE meter.sink_positions SET next_offset = $3, covered = $4, prefixes = $5"
            " WHERE topic = $1 AND partition = $2",
            *move.partition,
            move.next_offset,
            *positions.dump(move.covered),
        )


def _nothing_is_covered(
    prefixes: Prefixes, source: Any, lo: int, hi: int, watermark_ms: int, known: Any
) -> coverage.Prefix:
    prefixes[source] = max(coverage.Prefix(hi, watermark_ms), prefixes.get(source, coverage.NOTHING))
    return coverage.NOTHING
