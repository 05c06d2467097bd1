"""`meterstream up`, `down`, `status`, `logs`: servers and roles of this folder."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.number import Whole

if TYPE_CHECKING:
    from meterstream.deploy.running.status import RoleStatus
    from meterstream.deploy.stack import ServerStatus
    from meterstream.schema.settings import Settings

REASON_WIDTH = 160


def _settings() -> Settings:
    from meterstream.schema.settings import Settings

    return Settings.load()


def _home() -> Path:
    return _settings().home


@click.command()
@click.option(
    "--postgres",
    type=click.Choice(["wheel", "system"]),
    default="wheel",
    show_default=True,
    help="PostgreSQL from the package, or the newest one that is installed.",
)
@click.option("--roles", is_flag=True, help="Also run all roles in the background.")
def up(postgres: Literal["wheel", "system"], roles: bool) -> int:
    """Start Kafka, Postgres and Valkey here, ready for use.

    With --roles the exit code is 1 where a role that runs here has stopped itself; its reason is shown.
    """
    from meterstream.deploy import stack
    from meterstream.deploy.running import supervisor
    from meterstream.deploy.stack.starting import termination_raises

    settings = _settings()
    _show_progress()
    with termination_raises():
        ran_before = stack.addresses(settings.home) is not None
        stopped: list[str] = []
        addresses = stack.up(settings.home, postgres=postgres, meanwhile=_import_what_prepares)
        try:
            _prepare(settings)
            if roles:
                stopped = _stopped(settings)
                supervisor.start(settings.home, supervisor.known(()))
        except (KeyboardInterrupt, SystemExit):
            if not ran_before:
                stack.down(settings.home)
            raise
    click.echo(f"Kafka     {addresses.kafka_bootstrap}")
    click.echo(f"Postgres  {addresses.postgres_host}:{addresses.postgres_port}, database meterstream")
    click.echo(f"Valkey    {addresses.valkey_url.rpartition('@')[2].partition('/')[0]}")
    click.echo(f"Data      {settings.home}")
    click.echo(f"\nLook in   {stack.psql_line(settings.home, addresses.postgres_port)}")
    click.echo("Stop      meterstream down")
    for line in stopped:
        click.echo(line, err=True)
    if stopped:
        click.echo("mend that, then `meterstream down` and `meterstream up --roles`: nothing is lost by it", err=True)
    return 1 if stopped else 0


def _stopped(settings: Settings) -> list[str]:
    """Roles that run here and have stopped themselves, each with its reason: `up` does not start them again."""
    from meterstream.deploy.running import registration
    from meterstream.deploy.running.status import look

    if not registration.is_running(settings.home):
        return []
    return [f"{role.name} {role.reason or role.state}" for role in look(settings).roles if role.state == "stopped"]


def _import_what_prepares() -> None:
    """A quarter of a second that the JVM's start hides."""
    from meterstream.deploy import prepare as _  # noqa: F401


def _prepare(settings: Settings) -> None:
    """Topics and tables, on the servers of this folder only: `up` changes no server that it has not started."""
    from meterstream.deploy.connections import ADDRESSES
    from meterstream.deploy.prepare import prepare

    elsewhere = sorted(settings.model_fields_set.intersection(ADDRESSES))
    if elsewhere:
        click.echo(f"topics and tables are not made: {', '.join(elsewhere)} set, so they belong elsewhere", err=True)
    else:
        event_loop.run(prepare(settings))


def _show_progress() -> None:
    """What takes long says so, on standard error."""
    logging.getLogger("meterstream.deploy.stack").setLevel(logging.INFO)


@click.command()
def down() -> None:
    """Drain the roles, stop the servers; the data stay."""
    from meterstream.deploy import stack
    from meterstream.deploy.running import supervisor

    home = _home()
    stopped = [*supervisor.stop(home), *stack.down(home)]
    click.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool) -> int:
    """Show what should run here, how it is, and what to do.

    Servers are asked, not only looked for. Exits with 0 when everything that should run is running and answers,
    with 1 otherwise: when nothing runs, too, and while something starts.
    """
    from meterstream.deploy.running.status import look

    found = look(_settings())
    if as_json:
        click.echo(json.dumps(asdict(found), default=str))
        return 0 if found.is_well else 1
    for server in found.servers:
        click.echo(_server_line(server))
    for other in found.elsewhere:
        click.echo(f"{other.name:<15} {other.state:<10} {other.address}")
    for role in found.roles:
        click.echo(_role_line(role))
    for number, step in enumerate(found.next_steps):
        click.echo(f"{'' if number else chr(10)}Next      {step}")
    return 0 if found.is_well else 1


def _server_line(server: ServerStatus) -> str:
    pid = f"pid {server.pid}" if server.pid and server.state != "died" else ""
    port = f"port {server.port}" if server.port else ""
    memory = f"{server.memory_bytes >> 20} MB" if server.memory_bytes else ""
    return f"{server.name:<15} {server.state:<10} {pid:<12} {port:<11} {memory}".rstrip()


def _role_line(role: RoleStatus) -> str:
    pid = f"pid {role.pid}" if role.pid else ""
    said = ""
    if role.state in ("running", "degraded", "draining"):
        said = "lag unknown" if role.lag_records is None else f"lag {role.lag_records:,}"
    elif role.state in ("silent", "dead") and role.age_s is not None:
        said = f"last heard of {_age(role.age_s)} ago"
    reason = role.reason or ""
    short = reason if len(reason) <= REASON_WIDTH else reason[: REASON_WIDTH - 1] + "…"
    return f"{role.name:<15} {role.state:<10} {pid:<12} {said:<11} {short}".rstrip()


def _age(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until Ctrl-C.")
@click.option("-n", "--lines", type=Whole(0), default=20, show_default=True, help="How many lines to begin with.")
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
