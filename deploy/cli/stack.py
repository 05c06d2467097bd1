"""`meterstream up`, `down`, `status`, `logs`: the servers of this folder."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from meterstream.deploy.stack import StackStatus


def _home() -> Path:
    from meterstream.schema.settings import Settings

    return Settings.load().home


@click.command()
@click.option(
    "--postgres",
    type=click.Choice(["wheel", "system"]),
    default="wheel",
    show_default=True,
    help="PostgreSQL from the package, or the newest one that is installed.",
)
def up(postgres: Literal["wheel", "system"]) -> None:
    """Start Kafka, Postgres and Valkey here."""
    from meterstream.deploy import stack

    home = _home()
    _show_progress()
    addresses = stack.up(home, postgres=postgres)
    click.echo(f"Kafka     {addresses.kafka_bootstrap}")
    click.echo(f"Postgres  {addresses.postgres_host}:{addresses.postgres_port}, database meterstream")
    click.echo(f"Valkey    {addresses.valkey_url.rpartition('@')[2].partition('/')[0]}")
    click.echo(f"Data      {home}")
    click.echo(f"\nLook in   {stack.psql_line(home, addresses.postgres_port)}")
    click.echo("Stop      meterstream down")


def _show_progress() -> None:
    """What takes long says so, on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("meterstream.deploy.stack")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


@click.command()
def down() -> None:
    """Stop what runs here; the data stay."""
    from meterstream.deploy import stack

    stopped = stack.down(_home())
    click.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool) -> None:
    """Show what runs here, and how it is."""
    from meterstream.deploy import stack

    found = stack.status(_home())
    if as_json:
        click.echo(json.dumps({"home": str(found.home), "servers": [asdict(server) for server in found.servers]}))
    else:
        _print_servers(found)


def _print_servers(found: StackStatus) -> None:
    for server in found.servers:
        pid = f"pid {server.pid}" if server.pid else ""
        port = f"port {server.port}" if server.port else ""
        memory = f"{server.memory_bytes >> 20} MB" if server.memory_bytes else ""
        click.echo(f"{server.name:<10} {server.state:<8} {pid:<12} {port:<11} {memory}".rstrip())


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="How many lines to begin with."
)
def logs(name: str | None, follow: bool, lines: int) -> None:
    """Show the ends of all logs, or of one NAME."""
    from meterstream.deploy.stack import logs as stack_logs

    found = stack_logs.find(_home(), name)
    for path in found.values():
        if name is None:
            click.echo(f"==> {path} <==")
        for line in stack_logs.last_lines(path, lines):
            click.echo(line)
        if name is None:
            click.echo()
    if follow:
        for log_name, line in stack_logs.follow(found):
            click.echo(line if name else f"{log_name}: {line}")
