"""`meterstream run ROLE...`: roles in the foreground, kept running."""

from __future__ import annotations

import os

import click


@click.command()
@click.argument("roles", nargs=-1, required=True, metavar="ROLE...")
@click.option(
    "--accept-loss",
    metavar="TOPIC/PARTITION:OFFSET,...",
    default="",
    help="With rater: go on where records before these offsets were deleted unread. A rater that stopped for it names "
    "them (docs/operate.md). A later loss stops it again.",
)
@click.pass_context
def run(ctx: click.Context, roles: tuple[str, ...], *, accept_loss: str) -> None:
    """Run roles until Ctrl-C, which drains them; a second one kills.

    A role that ends is started again, with growing pauses; one that stopped itself because going on could lose
    or double usage (exit 70), or that cannot run with these settings (exit 78), is not. Each writes its own log.
    """
    from meterstream.deploy.connections import resolve
    from meterstream.deploy.roles import ROLES
    from meterstream.deploy.running import logs, registration, supervisor
    from meterstream.schema.settings import Settings

    if accept_loss:
        os.environ["METERSTREAM_RATER_ACCEPT_LOSS"] = accept_loss  # the roles are children
    settings = Settings.load()
    names = supervisor.known(roles)
    for name in names:
        resolve(settings, ROLES[name].needs)  # now, by one line, and not again and again in the roles' logs
    logs.configure(registration.NAME)
    ctx.exit(supervisor.run(settings.home, names, settings))
