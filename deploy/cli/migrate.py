"""`meterstream migrate`: the database's schema."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.number import Whole

if TYPE_CHECKING:
    from meterstream.sinks.postgres.migrate import Migration

T = TypeVar("T")


def _migrations() -> ModuleType:
    from meterstream.sinks.postgres import migrate as migrations

    return migrations


def _run(work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Does it with the administrator's DSN, after a login that says clearly what is wrong with it."""
    from meterstream.deploy.connections import administrator, resolve
    from meterstream.deploy.failures import explained
    from meterstream.schema.settings import Settings

    settings = resolve(Settings.load(), ("postgres_admin_dsn",))

    async def logged_in() -> T:
        async with administrator(settings):
            pass
        with explained():
            return await work(settings.postgres_admin_dsn.get_secret_value())

    return event_loop.run(logged_in())


@click.group()
def migrate() -> None:
    """Bring the database's schema up, down, or look at it."""


@migrate.command()
def up() -> None:
    """Apply every migration that is pending."""
    _say("applied", _run(_migrations().up))


@migrate.command(name="dry-run")
def dry_run() -> None:
    """Really apply what is pending, then roll everything back."""
    _say("would apply", _run(_migrations().dry_run))


@migrate.command()
@click.option("--to", "to_version", type=Whole(min=0), required=True, help="the version to go back to")
@click.option("--yes", "drop_data", is_flag=True, help="also where that drops data")
def down(to_version: int, drop_data: bool) -> None:
    """Undo migrations, newest first."""
    _say("undone", _run(partial(_migrations().down, to_version=to_version, drop_data=drop_data)))


@migrate.command()
def status() -> None:
    """List every migration and its state."""
    for entry in _run(_migrations().status):
        when = f"{entry.applied_at:%Y-%m-%d %H:%M:%S}Z" if entry.applied_at else "-"
        click.echo(f"{entry.version:04}  {entry.state:8}  {when:20}  {entry.name}")


@migrate.command()
def verify() -> None:
    """Fail unless every migration is applied as its file says."""
    _run(_migrations().verify)
    click.echo("the schema is what the migrations say")


@migrate.command()
@click.argument("version", type=Whole(0))
@click.option("--applied/--not-applied", "is_applied", required=True, help="what a look at the database has shown")
def repair(version: int, is_applied: bool) -> None:
    """Settle a migration that was left dirty."""
    _run(partial(_migrations().repair, version=version, is_applied=is_applied))
    click.echo(f"{version:04} counts as {'applied' if is_applied else 'never run'}")


def _say(what: str, done: list[Migration]) -> None:
    click.echo("\n".join(f"{what} {migration}" for migration in done) or "nothing to do")
