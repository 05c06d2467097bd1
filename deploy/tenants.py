"""What the pipeline knows of tenants, stored in Postgres and published with the prices; and their database logins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from meterstream.deploy import catalog
from meterstream.deploy.connections import Connection, administrator, reader
from meterstream.deploy.database import execute_format, limit_temp_files, set_password
from meterstream.schema.catalog import check_name
from meterstream.schema.errors import UsageError
from meterstream.schema.settings import Settings

NAME_LENGTH_MAX: Final = 128
LOGIN_BYTES_MAX: Final = 63
"""Postgres cuts a longer name off, so that two of them could become one."""

GROUP: Final = "meterstream_tenant"
CONNECTIONS_MAX: Final = 5
STATEMENT_TIMEOUT: Final = "30s"


@dataclass(frozen=True)
class TenantRow:
    """One tenant that has settings or a login; one without a row has the defaults. `created_at` is aware UTC."""

    tenant: str
    privacy: bool
    time_zone: str
    created_at: datetime
    logins: tuple[str, ...]


async def set_privacy(settings: Settings, tenant: str, privacy: bool) -> None:
    """Stores it, then publishes. Idempotent. Blocks on database and broker. Raises UsageError."""
    _check_tenant(tenant)
    async with administrator(settings) as connection:
        await connection.execute(
            "INSERT INTO meter.tenants (tenant, privacy) VALUES ($1, $2)"
            " ON CONFLICT (tenant) DO UPDATE SET privacy = excluded.privacy",
            tenant,
            privacy,
        )
        await catalog.publish(connection, settings, is_whole=False)


async def list_tenants(settings: Settings) -> list[TenantRow]:
    """By name. Blocks on the database. Raises UsageError."""
    async with reader(settings) as connection:
        rows = await connection.fetch(
            "SELECT tenant, privacy, time_zone, created_at,"
            " ARRAY(SELECT login::text FROM meter.tenant_logins l WHERE l.tenant = t.tenant ORDER BY 1) AS logins"
            " FROM meter.tenants t ORDER BY tenant"
        )
    return [
        TenantRow(row["tenant"], row["privacy"], row["time_zone"], row["created_at"], tuple(row["logins"]))
        for row in rows
    ]


async def create_login(settings: Settings, *, tenant: str, login: str, password: str) -> None:
    """Makes the login that sees this tenant's rows and nothing else, or renews its password. May block.

    Raises UsageError for a name that Postgres cannot take or that exists for something else, and for a password
    that is not printable ASCII.
    """
    _check_tenant(tenant)
    _check_login(login)
    async with administrator(settings) as connection, connection.transaction():
        owner = await connection.fetchval("SELECT tenant FROM meter.tenant_logins WHERE login = $1", login)
        exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", login)
        if owner not in (None, tenant) or (exists and owner is None):
            raise UsageError(f"the login {login} exists already and is not one of tenant {tenant}: choose another name")
        if not exists:
            await _create(connection, login)
        await connection.execute(
            "INSERT INTO meter.tenants (tenant) VALUES ($1) ON CONFLICT (tenant) DO NOTHING", tenant
        )
        await connection.execute(
            "INSERT INTO meter.tenant_logins (login, tenant) VALUES ($1, $2) ON CONFLICT (login) DO NOTHING",
            login,
            tenant,
        )
        await set_password(connection, login, password)
        await limit_temp_files(connection)


async def drop_login(settings: Settings, *, tenant: str, login: str) -> None:
    """Removes a login of that tenant; sessions that are open end. Raises UsageError when it is none, may block."""
    _check_login(login)
    async with administrator(settings) as connection, connection.transaction():
        deleted = await connection.execute(
            "DELETE FROM meter.tenant_logins WHERE login = $1 AND tenant = $2", login, tenant
        )
        if deleted == "DELETE 0":
            raise UsageError(f"{login} is not a login of tenant {tenant}: `meterstream tenant ls` lists them")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", login)
        await execute_format(connection, "DROP ROLE IF EXISTS %I", login)


async def _create(connection: Connection, login: str) -> None:
    await execute_format(connection, f"CREATE ROLE %I LOGIN CONNECTION LIMIT {CONNECTIONS_MAX}", login)
    await execute_format(connection, f"GRANT {GROUP} TO %I", login)
    # A tenant can lift these in its own session; the limits on connections and temporary files it cannot.
    await execute_format(connection, f"ALTER ROLE %I SET statement_timeout = '{STATEMENT_TIMEOUT}'", login)
    await execute_format(connection, "ALTER ROLE %I SET search_path = meter, pg_catalog", login)


def _check_tenant(tenant: str) -> None:
    if not 0 < len(tenant) <= NAME_LENGTH_MAX:
        raise UsageError(f"the name of a tenant has 1 to {NAME_LENGTH_MAX} characters, this one has {len(tenant)}")
    _check_characters(tenant)


def _check_login(login: str) -> None:
    _check_characters(login)
    size = len(login.encode())
    if not 0 < size <= LOGIN_BYTES_MAX:
        raise UsageError(f"a login of Postgres has 1 to {LOGIN_BYTES_MAX} bytes, this one has {size}")
    if login.startswith("pg_") or login in ("public", "none"):
        raise UsageError(f"Postgres keeps the name {login} for itself: choose another login")


def _check_characters(name: str) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
