"""`meterstream top`: who uses what, now."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.number import Whole
from meterstream.deploy.cli.settings import resolved

if TYPE_CHECKING:
    from rich.console import RenderableType

    from meterstream.deploy.live.view import Live
    from meterstream.schema.settings import Settings

LIMIT: Final = 40
INTERVAL_S: Final = 1.0


@click.command("top")
@click.option("--once", is_flag=True, help="One snapshot as plain text.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a snapshot, on one line.")
@click.option("--limit", type=Whole(1, 10_000), default=LIMIT, show_default=True, help="So many tenants.")
def top(once: bool, as_json: bool, limit: int) -> None:
    """Show each tenant's events, spend, rate and budgets of today (UTC) as they change, until Ctrl-C.

    From the topic usage.aggregates, which the aggregator writes about once a second. Without a terminal every
    snapshot is plain text.
    """
    try:
        event_loop.run(_show(resolved("kafka_bootstrap"), once=once, as_json=as_json, limit=limit))
    except KeyboardInterrupt:
        return  # this is how it is ended


async def _show(settings: Settings, *, once: bool, as_json: bool, limit: int) -> None:
    from contextlib import aclosing

    from rich.console import Console
    from rich.live import Live as Screen

    from meterstream.deploy.live.top import snapshots
    from meterstream.deploy.live.top_text import plain, to_json

    console = Console(markup=False, highlight=False, emoji=False)
    is_screen = console.is_terminal and not (once or as_json)
    # Not refreshed by a thread of its own: a snapshot is drawn when there is one.
    with Screen(console=console, auto_refresh=False) if is_screen else nullcontext() as screen:
        async with aclosing(snapshots(settings, INTERVAL_S)) as views:
            async for live in views:
                now = datetime.now(UTC)
                if screen is not None:
                    screen.update(_table(live, now, limit), refresh=True)
                elif as_json:
                    click.echo(to_json(live, now, limit))
                else:
                    click.echo(plain(live, now, limit) + ("" if once else "\n"))
                if once:
                    return


def _table(live: Live, now: datetime, limit: int) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from meterstream.deploy.live.top_text import HEADINGS, IS_RIGHT, NOTHING, notes, rows, total

    tenants = live.tenants(now)
    if not tenants:
        return Text("\n".join([NOTHING, *notes(live, tenants, 0)]))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, is_right in zip(HEADINGS, IS_RIGHT, strict=True):
        table.add_column(heading, justify="right" if is_right else "left")
    for row in rows(tenants[:limit], now):
        table.add_row(*map(Text, row))
    below = [Text(line, style="dim") for line in ("", total(tenants), *notes(live, tenants, limit))]
    return Group(table, *below)
