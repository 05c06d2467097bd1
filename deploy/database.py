"""Makes a database ready: roles with passwords and bounds, migrations, the numbers of source topics, first leaves.

A password is never part of a statement, an argument or a log line: the server gets a SCRAM verifier
(RFC 5803) that is computed here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import asyncpg

from meterstream.schema.errors import UsageError
from meterstream.schema.settings import Settings
from meterstream.schema.topics import manifest
from meterstream.sinks.postgres import migrate, partitions

log = logging.getLogger(__name__)

INGEST_ROLE: Final = "meterstream_ingest"
READER_ROLE: Final = "meterstream_reader"

TEMP_FILES_MAX: Final = "1GB"
"""Of one session of a tenant's login: a sort that needs more is refused, and nobody else's disk is full."""

SCRAM_ITERATIONS: Final = 4096
SCRAM_SALT_BYTES: Final = 16


async def prepare(settings: Settings, *, passwords: Mapping[str, str]) -> list[str]:
    """Brings the database of `postgres_admin_dsn` to this version; returns what was applied and made. May block.

    `passwords`: role name -> password, for the roles whose password is to be set. Idempotent. Raises
    MigrationError, UsageError (no address; a password that is not printable ASCII), asyncpg.PostgresError.
    """
    dsn = _admin_dsn(settings)
    done = [str(migration) for migration in await migrate.up(dsn)]
    connection = await asyncpg.connect(dsn)
    try:
        for role, password in passwords.items():
            await set_password(connection, role, password)
        await _number_sources(connection)
        now = datetime.now(UTC)
        needs = partitions.standing_needs(now, settings.partition_policy, settings.partitions_ahead)
        done += await partitions.ensure(connection, needs, policy=settings.partition_policy, today=now.date())
        done += [f"{login}: temporary files up to {TEMP_FILES_MAX}" for login in await limit_temp_files(connection)]
    finally:
        await connection.close()
    return done


async def limit_temp_files(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """Bounds what a query of a tenant's login may write to the disk; returns the logins that had no bound. May block.

    Only a superuser may set that, or who was granted it: for another administrator a warning names what stays open,
    where the server has no bound of its own.
    """
    unbounded = [
        row["login"]
        for row in await connection.fetch(
            "SELECT login::text FROM meter.tenant_logins JOIN pg_roles ON rolname = login"
            " WHERE NOT EXISTS (SELECT FROM unnest(rolconfig) c WHERE c LIKE 'temp_file_limit=%') ORDER BY 1"
        )
    ]
    try:
        async with connection.transaction():
            for login in unbounded:
                await execute_format(connection, f"ALTER ROLE %I SET temp_file_limit = '{TEMP_FILES_MAX}'", login)
    except asyncpg.InsufficientPrivilegeError:
        if await connection.fetchval("SELECT setting = '-1' FROM pg_settings WHERE name = 'temp_file_limit'"):
            log.warning(
                "tenants' logins can fill the disk with temporary files: only a superuser may set temp_file_limit for "
                "%s. Let one run `meterstream prepare` once, or set temp_file_limit for the whole server",
                ", ".join(unbounded),
            )
        return []
    return unbounded


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """What the server stores for a password (RFC 5803, RFC 7677). Raises UsageError for one that is not ASCII."""
    # SASLprep leaves printable ASCII as it is; we do not carry its tables for the rest.
    if not password or not password.isascii() or not password.isprintable():
        raise UsageError("a database password must be printable ASCII and not empty")
    salt = secrets.token_bytes(SCRAM_SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(SCRAM_ITERATIONS, *encoded)


def _admin_dsn(settings: Settings) -> str:
    dsn = settings.postgres_admin_dsn.get_secret_value()
    if not dsn:
        raise UsageError("METERSTREAM_POSTGRES_ADMIN_DSN is empty: say which database to prepare")
    return dsn


async def set_password(connection: asyncpg.Connection[asyncpg.Record], role: str, password: str) -> None:
    """Raises UsageError for a password that is not printable ASCII, asyncpg.PostgresError. May block."""
    await execute_format(connection, "ALTER ROLE %I PASSWORD %L", role, scram_verifier(password))


async def execute_format(connection: asyncpg.Connection[asyncpg.Record], statement: str, *parts: str) -> None:
    """Executes DDL with names and literals quoted by the server. Raises asyncpg.PostgresError. May block."""
    await connection.execute(
        await connection.fetchval("SELECT format($1, VARIADIC $2::text[])", statement, list(parts))
    )


async def _number_sources(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """A number that once meant something keeps its meaning: one that changed is an error."""
    for topic in manifest().values():
        if topic.source_id is None:
            continue
        wanted = (topic.name, topic.generation)
        await connection.execute(
            "INSERT INTO meter.sources (source_id, topic, generation) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            topic.source_id,
            *wanted,
        )
        stored = await connection.fetchrow(
            "SELECT topic, generation FROM meter.sources WHERE source_id = $1", topic.source_id
        )
        if stored is None or tuple(stored) != wanted:
            raise UsageError(f"source_id {topic.source_id} is {wanted} in topics.yaml but {stored} in the database")
