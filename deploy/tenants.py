"""What the pipeline knows of tenants: stored in Postgres, published with the prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meterstream.deploy import catalog
from meterstream.deploy.connections import administrator, reader
from meterstream.schema.catalog import check_name
from meterstream.schema.errors import UsageError
from meterstream.schema.settings import Settings

NAME_LENGTH_MAX = 128


@dataclass(frozen=True)
class TenantRow:
    """One tenant that has settings; one without a row has the defaults. `created_at` is aware UTC."""

    tenant: str
    privacy: bool
    time_zone: str
    created_at: datetime


async def set_privacy(settings: Settings, tenant: str, privacy: bool) -> None:
    """Stores it, then publishes. Idempotent. Blocks on database and broker. Raises UsageError."""
    _check_name(tenant)
    async with administrator(settings) as connection:
        await connection.execute(
            "INSERT INTO meter.tenants (tenant, privacy) VALUES ($1, $2)"
            " ON CONFLICT (tenant) DO UPDATE SET privacy = excluded.privacy",
            tenant,
            privacy,
        )
        await catalog.publish(connection, settings)


def _check_name(tenant: str) -> None:
    if not 0 < len(tenant) <= NAME_LENGTH_MAX:
        raise UsageError(f"the name of a tenant has 1 to {NAME_LENGTH_MAX} characters, this one has {len(tenant)}")
    try:
        check_name(tenant)
    except ValueError as error:
        raise UsageError(str(error)) from error


async def list_tenants(settings: Settings) -> list[TenantRow]:
    """By name. Blocks on the database. Raises UsageError."""
    async with reader(settings) as connection:
        rows = await connection.fetch(
            "SELECT tenant, privacy, time_zone, created_at FROM meter.tenants ORDER BY tenant"
        )
    return [TenantRow(row["tenant"], row["privacy"], row["time_zone"], row["created_at"]) for row in rows]
