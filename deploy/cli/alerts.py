"""`meterstream alerts tail`, `ls`: what budgets raised."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from meterstream.deploy.cli.moment import Moment
from meterstream.deploy.cli.number import Whole
from meterstream.deploy.cli.settings import resolved
from meterstream.deploy.cli.text import printable, utc

if TYPE_CHECKING:
    from meterstream.schema.alert import Alert
    from meterstream.schema.settings import Settings

LIMIT: Final = 1000


@click.group()
def alerts() -> None:
    """Follow and list the alerts that budgets raised."""


@alerts.command()
@click.option("--from-beginning", is_flag=True, help="All that the topic holds first (35 days), then on.")
@click.option("--json", "as_json", is_flag=True, help="The CloudEvents, one a line.")
def tail(from_beginning: bool, as_json: bool) -> None:
    """Show alerts as they come in usage.alerts, each once, until Ctrl-C."""
    try:
        asyncio.run(_tail(resolved("kafka_bootstrap"), from_beginning=from_beginning, as_json=as_json))
    except KeyboardInterrupt:
        return  # this is how it is ended


async def _tail(settings: Settings, *, from_beginning: bool, as_json: bool) -> None:
    from meterstream.deploy import alerts as found

    async for alert in found.tail(settings, from_beginning=from_beginning):
        click.echo(_line(alert, as_json=as_json))


@alerts.command("ls")
@click.option("--tenant")
@click.option("--since", type=Moment(), help="Alerts of that time or later.")
@click.option("--limit", type=Whole(1, 100_000), default=LIMIT, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="The CloudEvents, one a line.")
def list_alerts(tenant: str | None, since: datetime | None, limit: int, as_json: bool) -> None:
    """List alerts that Postgres holds, oldest first. Times are UTC, as 2026-01-31 or 2026-01-31T17:00:00Z."""
    from meterstream.deploy import alerts as kept

    found = asyncio.run(kept.list_alerts(resolved("postgres_reader_dsn"), tenant=tenant, since=since, limit=limit + 1))
    for alert in found[-limit:]:
        click.echo(_line(alert, as_json=as_json))
    if len(found) > limit:
        click.echo(f"these are the newest {limit:,}; --limit or --since give others", err=True)
    elif not found and not as_json:
        click.echo("no alert fits; `meterstream budget ls` shows where budgets stand")


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
        f"{utc(alert.time)}  {printable(alert.tenant)}  {data.budget}: {data.percent} % reached, "
        f"spent {known}{data.spent} of {data.amount} {data.currency} "
        f"({data.period} from {utc(data.period_start)}), {cause}"
    )
