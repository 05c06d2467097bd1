"""Migrations: plain SQL files, applied in order, each in a transaction of its own.

    schema/sql/roles.sql                     first, every time; idempotent
    schema/sql/migrations/NNNN_name.up.sql   and .down.sql

A comment in a file's first line changes how it is run: `-- no transaction` for statements that refuse one
(marked dirty while it runs), `-- drops data` in a down file (refused unless confirmed). All functions
need a direct connection as an administrator, not one through a transaction pooler; all may block.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Final, Literal

import asyncpg

from meterstream.schema.errors import MigrationError, UsageError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from meterstream.sinks.postgres.connection import Connection

log = logging.getLogger(__name__)

LOCK_KEY: Final = 0x6D65_7465_7200
LOCK_POLL_S: Final = 0.2
LOCK_WAIT_S: Final = 60.0
NO_TRANSACTION: Final = "-- no transaction"
DROPS_DATA: Final = "-- drops data"

_BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS meter.schema_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    dirty      boolean     NOT NULL DEFAULT false
)
"""


@dataclass(frozen=True)
class Migration:
    """One numbered step and its reverse."""

    version: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        """Of the up file: what has been applied must stay as it was."""
        return sha256(self.up.encode()).hexdigest()

    @property
    def drops_data(self) -> bool:
        """Undoing it loses rows."""
        return self.down.startswith(DROPS_DATA)

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


@dataclass(frozen=True)
class Status:
    """One migration as files and database see it."""

    version: int
    name: str
    state: Literal["applied", "pending", "dirty", "edited", "unknown"]
    applied_at: datetime | None = None


def sql_folder() -> Traversable:
    """Where the SQL of the installed package is."""
    return files("meterstream.schema").joinpath("sql")


def load(folder: Traversable | None = None) -> list[Migration]:
    """All migrations in order. Raises MigrationError when a number is missing, doubled or has no reverse."""
    root = folder or sql_folder().joinpath("migrations")
    ups = sorted(file.name for file in root.iterdir() if file.name.endswith(".up.sql"))
    found = [_read(root, name.removesuffix(".up.sql")) for name in ups]
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations must be numbered 0001, 0002, ... without holes: {', '.join(ups)}")
    return found


def _read(root: Traversable, stem: str) -> Migration:
    number, _, name = stem.partition("_")
    down = root.joinpath(f"{stem}.down.sql")
    if not number.isdigit() or not name or not down.is_file():
        raise MigrationError(f"{stem}: expected NNNN_name.up.sql with a .down.sql beside it")
    return Migration(int(number), name, root.joinpath(f"{stem}.up.sql").read_text("utf-8"), down.read_text("utf-8"))


async def up(dsn: str, migrations: list[Migration] | None = None) -> list[Migration]:
    """Applies what is pending and returns it. Raises MigrationError when files and database disagree."""
    known = load() if migrations is None else migrations
    async with _locked(dsn) as connection:
        async with connection.transaction():
            await _bootstrap(connection)
        await _become_owner(connection)
        pending = await _pending(connection, known)
        for migration in pending:
            await _apply(connection, migration)
    return pending


async def dry_run(dsn: str, migrations: list[Migration] | None = None) -> list[Migration]:
    """Really applies what is pending, in one transaction, then rolls back; returns what went well.

    Ends before the first migration that refuses a transaction.
    """
    known = load() if migrations is None else migrations
    tried: list[Migration] = []
    async with _locked(dsn) as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await _bootstrap(connection)
            await _become_owner(connection)
            for migration in await _pending(connection, known):
                if migration.up.startswith(NO_TRANSACTION):
                    break
                await _run_in_transaction(connection, migration, migration.up)
                tried.append(migration)
        finally:
            await transaction.rollback()
    return tried


async def down(
    dsn: str, *, to_version: int, drop_data: bool = False, migrations: list[Migration] | None = None
) -> list[Migration]:
    """Undoes everything above `to_version`, newest first, and returns it; all of it or, where one step fails, nothing.

    Raises UsageError when that would drop data and `drop_data` does not say so, MigrationError.
    """
    known = load() if migrations is None else migrations
    async with _locked(dsn) as connection:
        applied = {row["version"] for row in await _applied(connection)}
        if applied:
            await _become_owner(connection)
        undone = [m for m in reversed(known) if m.version in applied and m.version > to_version]
        losing = [str(migration) for migration in undone if migration.drops_data]
        if losing and not drop_data:
            raise UsageError(f"undoing {', '.join(losing)} drops data; say --yes to do it anyway")
        async with connection.transaction():
            for migration in undone:
                await _execute(connection, migration, migration.down)
                await connection.execute("DELETE FROM meter.schema_migrations WHERE version = $1", migration.version)
    return undone


async def status(dsn: str, migrations: list[Migration] | None = None) -> list[Status]:
    """Every migration that the files or the database know, in order. Changes nothing."""
    known = {migration.version: migration for migration in (load() if migrations is None else migrations)}
    connection = await _connect(dsn)
    try:
        applied = {row["version"]: row for row in await _applied(connection)}
    finally:
        await connection.close()
    result: list[Status] = []
    for version in sorted(known.keys() | applied.keys()):
        migration, row = known.get(version), applied.get(version)
        name = migration.name if migration else row["name"] if row else ""
        result.append(Status(version, name, _state(migration, row), row["applied_at"] if row else None))
    return result


async def verify(dsn: str, migrations: list[Migration] | None = None) -> None:
    """Raises MigrationError that names every migration that is pending, dirty, edited or unknown."""
    wrong = [entry for entry in await status(dsn, migrations) if entry.state != "applied"]
    if wrong:
        listed = ", ".join(f"{entry.version:04}_{entry.name} is {entry.state}" for entry in wrong)
        raise MigrationError(f"the database's schema is not what the migrations say: {listed}")


async def repair(dsn: str, *, version: int, is_applied: bool) -> None:
    """Settles a dirty migration after a person has looked: it counts as applied, or as never run.

    Raises UsageError when that migration is not dirty.
    """
    settle = (
        "UPDATE meter.schema_migrations SET dirty = false WHERE version = $1 AND dirty"
        if is_applied
        else "DELETE FROM meter.schema_migrations WHERE version = $1 AND dirty"
    )
    async with _locked(dsn) as connection:
        await _become_owner(connection)
        if await connection.execute(settle, version) in ("UPDATE 0", "DELETE 0"):
            raise UsageError(f"migration {version:04} is not dirty")


def _state(
    migration: Migration | None, row: asyncpg.Record | None
) -> Literal["applied", "pending", "dirty", "edited", "unknown"]:
    if row is None:
        return "pending"
    if row["dirty"]:
        return "dirty"
    if migration is None:
        return "unknown"
    return "applied" if row["checksum"] == migration.checksum else "edited"


async def _connect(dsn: str) -> Connection:
    return await asyncpg.connect(dsn, server_settings={"timezone": "UTC", "search_path": "pg_catalog"})


@asynccontextmanager
async def _locked(dsn: str) -> AsyncIterator[Connection]:
    """One runner at a time. Polled: a blocking lock would hold a snapshot that CREATE INDEX CONCURRENTLY awaits."""
    connection = await _connect(dsn)
    try:
        deadline = asyncio.get_running_loop().time() + LOCK_WAIT_S
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            if asyncio.get_running_loop().time() > deadline:
                raise MigrationError(f"another migration has been running for {LOCK_WAIT_S:.0f} s")
            await asyncio.sleep(LOCK_POLL_S)
        yield connection
    finally:
        await connection.close()  # ends the session, and the lock with it


def _log_warning(_: object, message: asyncpg.PostgresLogMessage) -> None:
    if message.severity == "WARNING":
        log.warning("%s. %s", message.message, message.hint or "")


async def _bootstrap(connection: Connection) -> None:
    connection.add_log_listener(_log_warning)
    await connection.execute(sql_folder().joinpath("roles.sql").read_text("utf-8"))
    if not await _has_bookkeeping(connection):
        await connection.execute(_BOOKKEEPING)
        await connection.execute("ALTER TABLE meter.schema_migrations OWNER TO meterstream_owner")


async def _become_owner(connection: Connection) -> None:
    # The objects belong to a role that nobody logs in as, whoever runs the migration.
    await connection.execute("SET ROLE meterstream_owner")


async def _has_bookkeeping(connection: Connection) -> bool:
    return await connection.fetchval("SELECT to_regclass('meter.schema_migrations')") is not None


async def _applied(connection: Connection) -> list[asyncpg.Record]:
    if not await _has_bookkeeping(connection):
        return []
    return await connection.fetch("SELECT * FROM meter.schema_migrations ORDER BY version")


_WAY_OUT: Final = {
    "dirty": "it was cut off; look at what it has done, then say so with `meterstream migrate repair`",
    "edited": "its file is another one than was applied here; use the release that this database was made with, "
    "or put the file back and write what you want to change as a new migration",
}


async def _pending(connection: Connection, known: list[Migration]) -> list[Migration]:
    applied = {row["version"]: row for row in await _applied(connection)}
    states = {m.version: _state(m, applied.get(m.version)) for m in known}
    wrong = [f"{m} is {state}: {_WAY_OUT[state]}" for m in known if (state := states[m.version]) in _WAY_OUT]
    newer = sorted(applied.keys() - states.keys())
    if newer:
        wrong.append(f"version {newer[-1]:04} comes from a newer release: use that one, or a newer one still")
    if wrong:
        raise MigrationError("nothing was applied: " + "; ".join(wrong))
    return [migration for migration in known if states[migration.version] == "pending"]


async def _apply(connection: Connection, migration: Migration) -> None:
    if migration.up.startswith(NO_TRANSACTION):
        await _record(connection, migration, dirty=True)
        await _execute(connection, migration, migration.up)  # a failure leaves it dirty, for a person to look at
        await connection.execute(
            "UPDATE meter.schema_migrations SET dirty = false WHERE version = $1", migration.version
        )
    else:
        async with connection.transaction():
            await _run_in_transaction(connection, migration, migration.up)


async def _run_in_transaction(connection: Connection, migration: Migration, script: str) -> None:
    await _execute(connection, migration, script)
    await _record(connection, migration, dirty=False)


async def _record(connection: Connection, migration: Migration, *, dirty: bool) -> None:
    await connection.execute(
        "INSERT INTO meter.schema_migrations (version, name, checksum, dirty) VALUES ($1, $2, $3, $4)",
        migration.version,
        migration.name,
        migration.checksum,
        dirty,
    )


async def _execute(connection: Connection, migration: Migration, script: str) -> None:
    try:
        for statement in _statements(script) if script.startswith(NO_TRANSACTION) else [script]:
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration}: {error}") from error


def _statements(script: str) -> list[str]:
    """Several statements in one message would be one transaction; so no `;` inside a statement here."""
    return [part.strip() for part in script.split(";") if part.strip()]
