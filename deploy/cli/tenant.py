"""`meterstream tenant set`, `ls`: what the pipeline knows of tenants."""

from __future__ import annotations

import asyncio
import json

import click


@click.group()
def tenant() -> None:
    """Set and list tenants' settings."""


@tenant.command("set")
@click.argument("name")
@click.option(
    "--privacy",
    type=click.Choice(["on", "off"]),
    required=True,
    help="on: ip and user agent are dropped before anything is stored.",
)
def set_tenant(name: str, privacy: str) -> None:
    """Set what holds for tenant NAME from now on; what is stored already stays."""
    from meterstream.deploy import tenants
    from meterstream.deploy.connections import resolve
    from meterstream.schema.settings import Settings

    settings = resolve(Settings.load(), ["kafka_bootstrap", "postgres_admin_dsn"])
    asyncio.run(tenants.set_privacy(settings, name, privacy == "on"))
    click.echo(f"{name}: privacy {privacy}, published")


@tenant.command("ls")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_tenants(as_json: bool) -> None:
    """List tenants that have settings; all others have the defaults."""
    from meterstream.deploy import tenants
    from meterstream.deploy.connections import resolve
    from meterstream.schema.settings import Settings

    found = asyncio.run(tenants.list_tenants(resolve(Settings.load(), ["postgres_admin_dsn"])))
    if as_json:
        rows = [
            {
                "tenant": row.tenant,
                "privacy": row.privacy,
                "time_zone": row.time_zone,
                "created_at": row.created_at.isoformat().replace("+00:00", "Z"),
            }
            for row in found
        ]
        click.echo(json.dumps(rows))
        return
    for row in found:
        click.echo(f"{row.tenant:<40} privacy {'on' if row.privacy else 'off'}")
    if not found:
        click.echo("no tenant has settings of its own: all have the defaults, privacy off")
