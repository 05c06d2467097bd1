"""`meterstream prepare`: servers of your own made ready for the roles."""

from __future__ import annotations

import click

from meterstream.deploy import event_loop


@click.command()
@click.option(
    "--set-passwords",
    is_flag=True,
    help="Give the logins of the ingest and reader DSN the passwords that stand there.",
)
def prepare(*, set_passwords: bool) -> None:
    """Make topics, tables, logins and prices where they are missing; safe to repeat.

    For servers that the settings name. `meterstream up` does the same for those of this folder. The logins
    meterstream_ingest and meterstream_reader are made without a password there: let --set-passwords or ALTER ROLE
    set one, or give them to your identity provider.
    """
    from meterstream.deploy import prepare as preparation
    from meterstream.schema.settings import Settings

    done = event_loop.run(preparation.prepare(Settings.load(), sets_passwords=set_passwords))
    for line in done:
        click.echo(line)
    if not done:
        click.echo("everything is as it should be")
