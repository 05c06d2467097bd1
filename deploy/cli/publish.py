"""`meterstream publish FILE`: a file of events into Kafka, checked line by line, safe to run again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from meterstream.deploy.cli.text import counted, printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from meterstream.producers.publish import Counts, Published, PublishPolicy, Watch
    from meterstream.producers.usage_file import UsageFile

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
    exit code is 1 then; a further run names them again, and sends those that its options allow. Old events belong
    into usage.backfill: usage.raw takes those of the last 35 days, usage.backfill those of ten years.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from meterstream.deploy.connections import resolve
    from meterstream.deploy.kafka import client_options
    from meterstream.producers.publish import PublishPolicy, publish_file
    from meterstream.producers.transport.kafka import KafkaTransport
    from meterstream.schema.errors import DeliveryFailed, MeterstreamError
    from meterstream.schema.settings import Settings
    from meterstream.schema.topics import AGE_MAX, RAW

    settings = Settings.load()
    options = client_options(resolve(settings, ("kafka_bootstrap",)))
    oldest = datetime.now(UTC) - AGE_MAX if topic == RAW else None
    policy = PublishPolicy(topic=topic, send_invalid=send_invalid, derive_ids=derive_ids, oldest=oldest)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        running = publish_file(
            file,
            policy,
            connect=lambda: KafkaTransport(options),
            progress_folder=settings.home / "publish",
            destination=settings.kafka_bootstrap,
            again=again,
            watch=partial(_watch, bar),
        )
        try:
            published = asyncio.run(running)
        except KeyboardInterrupt:
            click.echo("run the same command again: what is sent twice counts once", err=True)
            raise
        except DeliveryFailed as error:
            raise MeterstreamError(f"{error}. Run the same command again to go on from there") from error
    _report(published, policy)
    return 1 if published.counts.refused else 0


def _watch(bar: Bar, file: UsageFile) -> Watch:
    from meterstream.producers.publish import Watch

    task = bar.add_task("publishing", total=file.size)
    shown = 0

    def refused(number: int, problem: str) -> None:
        nonlocal shown
        shown += 1
        if shown <= BAD_LINES_SHOWN_MAX:
            text = printable(f"{file.name}:{number}: {problem}")
            bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif shown == BAD_LINES_SHOWN_MAX + 1:
            bar.console.print(f"... further bad lines of {printable(file.name)} are only counted", markup=False)

    def progressed(counts: Counts) -> None:
        bad = counts.refused + counts.invalid
        bar.update(task, completed=file.bytes_read(), description=f"{counts.sent:,} sent, {bad:,} bad")

    return Watch(refused=refused, progressed=progressed)


def _report(published: Published, policy: PublishPolicy) -> None:
    from meterstream.schema.topics import AGE_MAX

    progress, counts = published.progress, published.counts
    if published.was_complete and not counts.sent:
        click.echo(f"already published: {counted(progress.sent, 'event')}; use --again to send them again")
    else:
        in_all = f" ({progress.sent:,} in all)" if progress.is_complete and progress.sent > counts.sent else ""
        click.echo(
            f"{counted(counts.sent, 'event')} sent to {policy.topic} and confirmed{in_all}, "
            f"{counted(counts.lines, 'line')} read"
        )
    if counts.invalid:
        click.echo(f"{counted(counts.invalid, 'bad line')} among them: expect as many rejected")
    if counts.too_old:
        click.echo(
            f"{counted(counts.too_old, 'event')} will be rejected: {policy.topic} takes what is at most "
            f"{AGE_MAX.days} days old; publish with --topic usage.backfill",
            err=True,
        )
    if counts.refused:
        was, them = ("was", "it") if counts.refused == 1 else ("were", "them")
        click.echo(f"{counted(counts.refused, 'bad line')} {was} not sent: mend {them} and run this again", err=True)
