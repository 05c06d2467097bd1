"""What hostile events, or a database that refuses, can do to the sink: it stays bounded, or stops and says why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from meterstream.processors.rating.admit import BACKFILL_AGE_MAX
from meterstream.schema.errors import StoreRefused
from meterstream.schema.event import KEY_BYTES_MAX
from meterstream.schema.settings import Settings
from meterstream.sinks.postgres import partitions, service, verify
from meterstream.sinks.postgres.refusal import is_lasting
from tests.integration.sink_log import NOW, Server, pack, row

pytestmark = pytest.mark.stack


async def verified(server: Server) -> verify.Report:
    async with verify.snapshot(server.admin) as connection:
        return await verify.verify(connection)


# ---------------------------------------------------------------------- leaves


async def test_a_backfill_of_every_day_of_the_window_stays_within_the_bound(server: Server) -> None:
    assert await server.admin.fetchval("SHOW max_locks_per_transaction") == "64", "the server's default"
    days = BACKFILL_AGE_MAX.days
    log = server.log()
    await log.store(
        pack([row(age, event_id=f"import/{age}", occurred_at=NOW - timedelta(days=age)) for age in range(days + 1)])
    )
    assert await server.count("ledger") == days + 1
    leaves = await server.admin.fetchval("SELECT count(*) FROM meter.leaves WHERE parent = 'ledger'")
    assert leaves <= partitions.LEDGER_LEAVES_MAX
    assert log.sink.has_new_leaves.is_set(), "upkeep looks at their number"
    assert (await verified(server)).is_good


async def test_as_many_leaves_as_there_may_be_and_more_can_be_verified_and_asked(server: Server) -> None:
    """Years of operation by month, at the server's default of locks."""
    assert await server.admin.fetchval("SHOW max_locks_per_transaction") == "64", "the server's default"
    months = [datetime(2014 + n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in range(partitions.LEDGER_LEAVES_MAX)]
    for parent in ("ledger", "rollup_hourly", "rollup_daily"):
        for month in months:
            await server.admin.execute("SELECT meter.ensure_partition($1, $2, 'month')", parent, month)
    await server.log().store(pack([row(n, event_id=f"e{n}", occurred_at=month) for n, month in enumerate(months)]))
    assert (await verified(server)).is_good
    assert await server.admin.fetchval("SELECT sum(events) FROM meter.spend_by_model") == len(months)
    settings = Settings(postgres_ingest_dsn=SecretStr(server.ingest_dsn))
    upkeep = await service.keep_up_once(server.ingest_dsn, settings, NOW)
    assert upkeep.ledger_leaves is not None and upkeep.ledger_leaves > partitions.LEDGER_LEAVES_MAX
    assert upkeep.warning is not None and f"{upkeep.ledger_leaves} leaves" in upkeep.warning


async def test_packs_of_before_the_bound_can_still_be_stored(server: Server) -> None:
    """Seven days of them may lie in the topic at an upgrade."""
    years = [datetime(year, 6, 15, tzinfo=UTC) for year in range(1970, 2200, 5)]
    await server.log().store(pack([row(n, event_id=f"e{n}", occurred_at=year) for n, year in enumerate(years)]))
    assert (await verified(server)).is_good


async def test_the_longest_key_that_is_admitted_fits_into_every_index(server: Server) -> None:
    names = ("tenant", "provider", "model", "operation", "project_id", "user_id", "api_key_id")
    size = KEY_BYTES_MAX // len(names) // 4
    # Letters of four bytes without any pattern: nothing for the server to compress.
    texts = {
        name: "".join(chr(0x10000 + (37 * n + 7919 * i * i) % 0xF000) for i in range(size))
        for n, name in enumerate(names)
    }
    texts["tenant"] += "x" * (KEY_BYTES_MAX - sum(len(text.encode()) for text in texts.values()))
    await server.log().store(pack([row(0, **texts)]))
    assert await server.count("rollup_daily") == 1


# ---------------------------------------------------------------------- errors that come again, and others


LASTING: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "check": (
        "ALTER TABLE meter.ledger ADD CONSTRAINT not_llama CHECK (model <> 'llama')",
        "ALTER TABLE meter.ledger DROP CONSTRAINT not_llama",
        {"model": "llama"},
        r"from offset 0 to 0, of usage\.raw/0 offset 0 index 1: CheckViolationError: .*constraint not_llama of ledger",
    ),
    "not null": (
        "ALTER TABLE meter.ledger ALTER latency_ms SET NOT NULL",
        "ALTER TABLE meter.ledger ALTER latency_ms DROP NOT NULL",
        {"latency_ms": None},
        r"of usage\.raw/0 offset 0 index 1: NotNullViolationError",
    ),
    "unique": (
        "CREATE UNIQUE INDEX only_one ON meter.ledger (model, occurred_at)",
        "DROP INDEX meter.only_one",
        {},
        "UniqueViolationError: .*only_one|UniqueViolationError: .*_model_occurred_at_idx",
    ),
    "right": (
        "REVOKE INSERT ON meter.ledger FROM meterstream_ingest",
        "GRANT INSERT ON meter.ledger TO meterstream_ingest",
        {},
        "InsufficientPrivilegeError: permission denied for table ledger",
    ),
    "row security": (
        "REVOKE INSERT ON meter.ledger FROM meterstream_ingest; ALTER ROLE meterstream_ingest NOBYPASSRLS",
        "GRANT INSERT ON meter.ledger TO meterstream_ingest; ALTER ROLE meterstream_ingest BYPASSRLS",
        {},
        "COPY FROM not supported with row-level security|permission denied|row-level security",
    ),
    "not migrated": (
        "ALTER TABLE meter.rollup_daily RENAME TO later",
        "ALTER TABLE meter.later RENAME TO rollup_daily",
        {},
        "UndefinedTableError: .*rollup_daily.*meterstream prepare",
    ),
    "overflow": (
        "ALTER TABLE meter.rollup_hourly ADD CONSTRAINT few CHECK (input_tokens < 10)",
        "ALTER TABLE meter.rollup_hourly DROP CONSTRAINT few",
        {},
        "CheckViolationError: .*constraint few of rollup_hourly",
    ),
}


@pytest.mark.parametrize("case", LASTING)
async def test_what_comes_again_stops_the_sink_and_is_stored_after_the_repair(server: Server, case: str) -> None:
    damage, repair, changes, match = LASTING[case]
    await server.admin.execute(damage)
    try:
        log = server.log()
        with pytest.raises(asyncpg.PostgresError) as first:
            await log.store(pack([row(0), row(1, **changes)]))
        assert not first.value.detail, "it would show the row"
        await log.start_anew()
        with pytest.raises(StoreRefused, match=match) as refused:
            await log.store()
        assert "order" not in str(refused.value) and "Failing row" not in str(refused.value)
    finally:
        await server.admin.execute(repair)
    await log.start_anew()
    await log.store()
    assert await server.count("ledger") == 2
    assert (await verified(server)).is_good


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tags": "{not json"}, "invalid input syntax for type json"),
        ({"status_code": 40_000}, "OverflowError: .*int16"),
        ({"input_tokens": 1 << 63}, "OverflowError: .*int64"),
    ],
    ids=["the server refuses it", "too large for its column", "too large for any"],
)
async def test_a_value_that_cannot_be_stored_stops_the_sink(
    server: Server, changes: dict[str, Any], match: str
) -> None:
    log = server.log()
    with pytest.raises((asyncpg.PostgresError, OverflowError)):
        await log.store(pack([row(0, **changes)]))
    await log.start_anew()
    with pytest.raises(StoreRefused, match=match):
        await log.store()
    assert await server.count("ledger") == 0


async def test_an_error_that_was_stored_past_is_forgotten(server: Server) -> None:
    log = server.log()
    for position in range(3):
        await server.admin.execute("REVOKE INSERT ON meter.ledger FROM meterstream_ingest")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await log.store(pack([row(position)]))
        await server.admin.execute("GRANT INSERT ON meter.ledger TO meterstream_ingest")
        await log.start_anew()
        await log.store()
    assert await server.count("ledger") == 3


@asynccontextmanager
async def locked(server: Server) -> AsyncIterator[None]:
    async with server.admin.transaction():
        await server.admin.execute("LOCK TABLE meter.ledger IN EXCLUSIVE MODE")
        yield


@asynccontextmanager
async def refused_login(server: Server) -> AsyncIterator[None]:
    await server.admin.execute("ALTER ROLE meterstream_ingest CONNECTION LIMIT 0")
    try:
        yield
    finally:
        await server.admin.execute("ALTER ROLE meterstream_ingest CONNECTION LIMIT -1")


@asynccontextmanager
async def read_only(server: Server) -> AsyncIterator[None]:
    await server.admin.execute("ALTER ROLE meterstream_ingest SET default_transaction_read_only = on")
    try:
        yield
    finally:
        await server.admin.execute("ALTER ROLE meterstream_ingest RESET default_transaction_read_only")


@pytest.mark.parametrize("trouble", [locked, refused_login, read_only])
async def test_what_may_pass_is_tried_again_for_as_long_as_it_takes(server: Server, trouble: Any) -> None:
    log = server.log()
    log.append(("usage.priced", 0), pack([row(0)]))
    async with trouble(server):
        for _ in range(3):
            with pytest.raises(asyncpg.PostgresError):
                await log.store()
            await log.start_anew()
    await log.store()
    assert await server.count("ledger") == 1


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConnectionDoesNotExistError,
        asyncpg.SerializationError,
        asyncpg.DeadlockDetectedError,
        asyncpg.LockNotAvailableError,
        asyncpg.DiskFullError,
        asyncpg.OutOfMemoryError,
        asyncpg.AdminShutdownError,
        asyncpg.CannotConnectNowError,
        asyncpg.QueryCanceledError,
        asyncpg.TooManyConnectionsError,
        asyncpg.InvalidPasswordError,
        asyncpg.InvalidCachedStatementError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        ConnectionResetError,
        TimeoutError,
    ],
)
def test_what_may_pass(error: type[Exception]) -> None:
    assert not is_lasting(error("..."))
