"""`meterstream tenant set`, `ls`: what the pipeline knows of tenants."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.text import utc

if TYPE_CHECKING:
    from meterstream.schema.settings import Settings


@click.group()
def tenant() -> None:
    """Set and list tenants' settings."""


@tenant.command("set")
@click.argument("name")
@click.option(
    "--privacy",
    type=click.Choice(["on", "off"]),
    required=True,
    help="on: ip and user agent are dropped, and the bodies of rejected records. The raw topic keeps them.",
)
def set_tenant(name: str, privacy: str) -> None:
    """Set what holds for tenant NAME from now on; what is stored already stays."""
    from meterstream.deploy import tenants
    from meterstream.deploy.connections import resolve
    from meterstream.schema.settings import Settings

    settings = resolve(Settings.load(), ["kafka_bootstrap", "postgres_admin_dsn"])
    event_loop.run(tenants.set_privacy(settings, name, privacy == "on"))
    click.echo(f"{name}: privacy {privacy}, published")


@tenant.command("ls")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_tenants(as_json: bool) -> None:
    """List tenants that have settings or a login; all others have the defaults."""
    from meterstream.deploy import tenants
    from meterstream.deploy.connections import resolve
    from meterstream.schema.settings import Settings

    found = event_loop.run(tenants.list_tenants(resolve(Settings.load(), ["postgres_reader_dsn"])))
    if as_json:
        rows = [
            {
                "tenant": row.tenant,
                "privacy": row.privacy,
                "time_zone": row.time_zone,
                "created_at": utc(row.created_at),
                "logins": row.logins,
            }
            for row in found
        ]
        click.echo(json.dumps(rows))
        return
    for row in found:
        logins = f"  logins: {', '.join(row.logins)}" if row.logins else ""
        click.echo(f"{row.tenant:<40} privacy {'on ' if row.privacy else 'off'}{logins}".rstrip())
    if not found:
        click.echo("no tenant has settings of its own: all have the defaults, privacy off")


@tenant.command("login")
@click.argument("name")
@click.option("--login", required=True, help="The database login to make; one login sees one tenant.")
@click.option("--drop", is_flag=True, help="Remove the login instead; its open sessions end.")
def login_of_tenant(name: str, login: str, drop: bool) -> None:
    """Make a database login that sees the rows of tenant NAME and nothing else, or renew its password.

    The password is asked for, or read from standard input: it is never an argument.
    """
    from meterstream.deploy import tenants
    from meterstream.deploy.connections import resolve
    from meterstream.schema.settings import Settings

    settings = resolve(Settings.load(), ["postgres_admin_dsn"])
    if drop:
        event_loop.run(tenants.drop_login(settings, tenant=name, login=login))
        click.echo(f"{login}: removed")
        return
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    event_loop.run(tenants.create_login(settings, tenant=name, login=login, password=password))
    click.echo(f"{login}: sees the rows of {name}; log in with {_psql(settings, login)}")


def _psql(settings: Settings, login: str) -> str:
    """A line for the shell."""
    from urllib.parse import urlsplit

    parts = urlsplit(settings.postgres_admin_dsn.get_secret_value())
    words = ["psql", "-h", parts.hostname or "localhost", "-p", str(parts.port or 5432), "-U", login]
    return shlex.join([*words, parts.path.lstrip("/") or "postgres"])
