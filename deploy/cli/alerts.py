"""`meterstream alerts tail`, `ls`: what budgets raised."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.moment import Past
from meterstream.deploy.cli.number import Whole
from meterstream.deploy.cli.settings import resolved
from meterstream.deploy.cli.text import never_seen, printable, utc

if TYPE_CHECKING:
    from meterstream.schema.alert import Alert
    from meterstream.schema.settings import Settings

LIMIT: Final = 1000


@click.group()
def alerts() -> None:
    """Follow and list the alerts that budgets raised."""


@alerts.command()
@click.option("--tenant", help="Only of this tenant.")
@click.option("--budget", help="Only of budgets of this name.")
@click.option("--from-beginning", is_flag=True, help="All that the topic holds first (35 days), then on.")
@click.option("--json", "as_json", is_flag=True, help="The CloudEvents, one a line.")
def tail(as_json: bool, **wanted: Any) -> None:
    """Show alerts as they come in usage.alerts, each once, until Ctrl-C."""
    settings = resolved("kafka_bootstrap")
    if sys.stderr.isatty():
        click.echo("waiting for alerts; Ctrl-C ends", err=True)
    try:
        event_loop.run(_tail(settings, wanted, as_json=as_json))
    except KeyboardInterrupt:
        return  # this is how it is ended


async def _tail(settings: Settings, wanted: dict[str, Any], *, as_json: bool) -> None:
    from meterstream.deploy.live import alerts as found

    warning = asyncio.create_task(_warn_where_database(settings, wanted["tenant"]))
    try:
        async for alert in found.tail(settings, **wanted):
            click.echo(_line(alert, as_json=as_json))
    finally:
        warning.cancel()
        with suppress(asyncio.CancelledError):
            await warning


async def _warn_where_database(settings: Settings, tenant: str | None) -> None:
    """Alerts come without a database, too: where none answers, nothing is said."""
    from meterstream.deploy.connections import resolve
    from meterstream.schema.errors import StackError, UsageError

    if tenant is None:
        return
    try:
        await _warn_of_stranger(resolve(settings, ["postgres_reader_dsn"]), tenant)
    except (UsageError, StackError):
        return


@alerts.command("ls")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--budget", help="Only of budgets of this name.")
@click.option("--since", type=Past(), help="Alerts of that time or later, or of the last 40s, 30m, 2h, 7d.")
@click.option("--limit", type=Whole(1, 100_000), default=LIMIT, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="The CloudEvents, one a line.")
def list_alerts(limit: int, as_json: bool, **wanted: Any) -> None:
    """List alerts that Postgres holds, oldest first. Times are UTC, as 2026-01-31 or 2026-01-31T17:00:00Z."""
    from meterstream.deploy.live import alerts as kept

    settings = resolved("postgres_reader_dsn")
    found = event_loop.run(kept.list_alerts(settings, limit=limit + 1, **wanted))
    for alert in found[-limit:]:
        click.echo(_line(alert, as_json=as_json))
    if len(found) > limit:
        click.echo(f"these are the newest {limit:,}; --limit or --since give others", err=True)
    elif not found:
        if not as_json:
            click.echo("no alert fits; `meterstream budget ls` shows where budgets stand")
        if wanted["tenant"] is not None:
            event_loop.run(_warn_of_stranger(settings, wanted["tenant"]))


async def _warn_of_stranger(settings: Settings, tenant: str) -> None:
    from meterstream.deploy.live.budgets import has_been_seen

    if not await has_been_seen(settings, tenant):
        click.echo(never_seen(tenant), err=True)


def _line(alert: Alert, *, as_json: bool) -> str:
    return _cloud_event(alert) if as_json else described(alert)


def _cloud_event(alert: Alert) -> str:
    from meterstream.schema.alert import encode_alert

    return encode_alert(alert).decode()


def described(alert: Alert) -> str:
    """One line for people."""
    data = alert.data
    known = "at least " if data.provisional else ""
    cause = f"by event {printable(data.place.event_id)}" if data.place else "when this version of the budget was made"
    return (
        f"{utc(alert.time, 'milliseconds')}  {printable(alert.tenant)}  {data.budget}: {data.percent} % reached, "
        f"spent {known}{data.spent} of {data.amount} {data.currency} "
        f"({data.period} from {utc(data.period_start)}), {cause}"
    )
