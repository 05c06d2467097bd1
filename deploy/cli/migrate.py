"""`meterstream migrate`: the database's schema."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from meterstream.sinks.postgres.migrate import Migration


def _migrations() -> ModuleType:
    from meterstream.sinks.postgres import migrate as migrations

    return migrations


def _dsn() -> str:
    from meterstream.deploy.connections import resolve
    from meterstream.schema.settings import Settings

    return resolve(Settings.load(), ("postgres_admin_dsn",)).postgres_admin_dsn.get_secret_value()


@click.group()
def migrate() -> None:
    """Bring the database's schema up, down, or look at it."""


@migrate.command()
def up() -> None:
    """Apply every migration that is pending."""
    _say("applied", asyncio.run(_migrations().up(_dsn())))


@migrate.command(name="dry-run")
def dry_run() -> None:
    """Really apply what is pending, then roll everything back."""
    _say("would apply", asyncio.run(_migrations().dry_run(_dsn())))


@migrate.command()
@click.option("--to", "to_version", type=click.IntRange(min=0), required=True, help="the version to go back to")
@click.option("--yes", "drop_data", is_flag=True, help="also where that drops data")
def down(to_version: int, drop_data: bool) -> None:
    """Undo migrations, newest first."""
    _say("undone", asyncio.run(_migrations().down(_dsn(), to_version=to_version, drop_data=drop_data)))


@migrate.command()
def status() -> None:
    """List every migration and its state."""
    for entry in asyncio.run(_migrations().status(_dsn())):
        when = f"{entry.applied_at:%Y-%m-%d %H:%M:%S}Z" if entry.applied_at else "-"
        click.echo(f"{entry.version:04}  {entry.state:8}  {when:20}  {entry.name}")


@migrate.command()
def verify() -> None:
    """Fail unless every migration is applied as its file says."""
    asyncio.run(_migrations().verify(_dsn()))
    click.echo("the schema is what the migrations say")


@migrate.command()
@click.argument("version", type=int)
@click.option("--applied/--not-applied", "is_applied", required=True, help="what a look at the database has shown")
def repair(version: int, is_applied: bool) -> None:
    """Settle a migration that was left dirty."""
    asyncio.run(_migrations().repair(_dsn(), version=version, is_applied=is_applied))
    click.echo(f"{version:04} counts as {'applied' if is_applied else 'never run'}")


def _say(what: str, done: list[Migration]) -> None:
    click.echo("\n".join(f"{what} {migration}" for migration in done) or "nothing to do")
