"""`meterstream publish FILE`: a file of events into Kafka, checked line by line, safe to run again."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from meterstream.producers.publish import Published, PublishPolicy, UsageFile, Watch

TOPICS: Final = ("usage.raw", "usage.backfill")
BAD_LINES_SHOWN_MAX: Final = 100


@click.command("publish")
@click.argument("file", metavar="FILE")
@click.option("--topic", type=click.Choice(TOPICS), default=TOPICS[0], show_default=True)
@click.option("--send-invalid", is_flag=True, help="Send bad lines too, to see them rejected.")
@click.option("--derive-ids", is_flag=True, help="Give lines without an id one made from their content.")
@click.option("--again", is_flag=True, help="Send a file again that has been published; nothing counts twice.")
def publish(file: str, topic: str, send_invalid: bool, derive_ids: bool, again: bool) -> int:
    """Publish FILE, one CloudEvent in JSON a line, plain or gzip; - reads standard input.

    Run it again after an interruption: it goes on where it stopped. Bad lines are named and not sent, and the
    exit code is 1 then. Old events belong into usage.backfill: usage.raw takes those of the last 35 days.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from meterstream.deploy.connections import resolve
    from meterstream.deploy.kafka import client_options
    from meterstream.producers.publish import PublishPolicy, publish_file
    from meterstream.producers.transport.kafka import KafkaTransport
    from meterstream.schema.settings import Settings

    settings = Settings.load()
    policy = PublishPolicy(topic=topic, send_invalid=send_invalid, derive_ids=derive_ids)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        running = publish_file(
            file,
            policy,
            connect=lambda: KafkaTransport(client_options(resolve(settings, ("kafka_bootstrap",)))),
            progress_folder=settings.home / "publish",
            destination=settings.kafka_bootstrap,
            again=again,
            watch=partial(_watch, bar),
        )
        try:
            published = asyncio.run(running)
        except KeyboardInterrupt:
            click.echo("run the same command again to go on", err=True)
            raise
    _report(published, policy)
    return 1 if published.progress.refused and not send_invalid else 0


def _watch(bar: Bar, file: UsageFile) -> Watch:
    from meterstream.producers.publish import Watch

    task = bar.add_task("publishing", total=file.size)
    shown = 0

    def refused(number: int, problem: str) -> None:
        nonlocal shown
        shown += 1
        if shown <= BAD_LINES_SHOWN_MAX:
            bar.console.print(f"{file.name}:{number}: {problem}", markup=False, highlight=False, soft_wrap=True)
        elif shown == BAD_LINES_SHOWN_MAX + 1:
            bar.console.print(f"... further bad lines of {file.name} are only counted", markup=False)

    return Watch(
        refused=refused,
        progressed=lambda progress: bar.update(
            task, completed=file.bytes_read(), description=f"{progress.sent:,} sent, {progress.refused:,} bad"
        ),
    )


def _report(published: Published, policy: PublishPolicy) -> None:
    progress = published.progress
    if published.was_complete:
        click.echo(f"already published: {progress.sent:,} events; use --again to send them again")
        return
    click.echo(f"{progress.sent:,} events sent to {policy.topic} and confirmed, {progress.lines:,} lines read")
    if progress.refused and not policy.send_invalid:
        click.echo(f"{progress.refused:,} bad lines were not sent: mend them and run this again", err=True)
