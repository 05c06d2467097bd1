"""`meterstream topics apply`, `verify`, `ls`, `acls`: the broker against the manifest, and who may do what."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from meterstream.deploy import event_loop

if TYPE_CHECKING:
    from meterstream.schema.settings import Settings


@click.group()
def topics() -> None:
    """Make and check the topics."""


@topics.command()
def apply() -> None:
    """Make missing topics and set what differs. Partition counts are never changed."""
    from meterstream.deploy import topics as broker_topics

    done = event_loop.run(broker_topics.apply(_settings()))
    for line in done or ["nothing to do"]:
        click.echo(line)


@topics.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(as_json: bool) -> None:
    """Name every difference; exit 1 when there is one. Changes nothing."""
    from meterstream.deploy import topics as broker_topics
    from meterstream.schema.topics import manifest

    actual = event_loop.run(broker_topics.describe(_settings()))
    found = broker_topics.compare(manifest(), actual)
    if as_json:
        click.echo(json.dumps([{**asdict(difference), "text": str(difference)} for difference in found]))
    else:
        for line in [str(difference) for difference in found] or ["every topic is as the manifest says"]:
            click.echo(line)
        for note in broker_topics.notes(manifest(), actual):
            click.echo(note)
    sys.exit(1 if found else 0)


@topics.command("ls")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_topics(as_json: bool) -> None:
    """List the topics of the manifest, and how the broker has them."""
    from meterstream.deploy import topics as broker_topics
    from meterstream.schema.topics import manifest

    actual = event_loop.run(broker_topics.describe(_settings()))
    rows = [
        {
            "topic": topic.name,
            "role": topic.role,
            "generation": topic.generation,
            "partitions": topic.partitions,
            "actual_partitions": actual[topic.name].partitions if topic.name in actual else None,
            "copies": actual[topic.name].copies if topic.name in actual else None,
        }
        for topic in manifest().values()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        state = "missing" if row["copies"] is None else f"{row['actual_partitions']} there, copies: {row['copies']}"
        click.echo(
            f"{row['topic']:<16} {row['role']:<9} generation {row['generation']}"
            f"  {row['partitions']:>3} partitions  {state}"
        )


@topics.command()
@click.argument("parts", nargs=-1, metavar="[PART]...")
@click.option("--prefix", default="User:meterstream-", show_default=True, help="Of each part's principal.")
def acls(parts: tuple[str, ...], prefix: str) -> None:
    """Write the commands that give each PART's login its rights. Runs none of them, asks no broker.

    PARTs: publisher, rater, aggregator, sink-postgres, operator, subscriber; all of them without one. Add
    --bootstrap-server and --command-config of an administrator to each command.
    """
    from meterstream.deploy import access

    for part in parts or access.parts():
        found = list(access.grants(part))
        click.echo(f"# {part}: {access.parts()[part].about}")
        for grant in found:
            click.echo(access.command(grant, f"{prefix}{part}"))


def _settings() -> Settings:
    from meterstream.deploy.connections import resolve
    from meterstream.schema.settings import Settings

    return resolve(Settings.load(), ["kafka_bootstrap"])
