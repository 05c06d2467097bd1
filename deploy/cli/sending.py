"""Sends a file with a progress bar and says how that ended: what `publish` and `import csv` have in common."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.text import counted, printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from meterstream.producers.form import Form
    from meterstream.producers.publish import Counts, Published, PublishPolicy, Watch
    from meterstream.producers.usage_file import UsageFile
    from meterstream.schema.settings import Settings

BAD_SHOWN_MAX: Final = 100


def send_file(
    settings: Settings,
    file: str,
    policy: PublishPolicy,
    *,
    again: bool = False,
    form: Form | None = None,
    noun: str = "line",
    purpose: str = "",
) -> Published:
    """Sends what an earlier run has not; names bad lines on standard error, where the bar is too.

    `form`: what the file is made of, None: events; `noun`: what one of these is called; `purpose`: keeps the progress
    of different things that are done with one file apart. Blocks until all is confirmed. Raises UsageError,
    Unreachable, MeterstreamError.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from meterstream.deploy.connections import resolve
    from meterstream.deploy.kafka import client_options
    from meterstream.producers.publish import publish_file
    from meterstream.producers.transport.kafka import KafkaTransport
    from meterstream.schema.errors import DeliveryFailed, MeterstreamError

    options = client_options(resolve(settings, ("kafka_bootstrap",)))
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        running = publish_file(
            file,
            policy,
            connect=lambda: KafkaTransport(options),
            progress_folder=settings.home / "publish",
            destination="\n".join(filter(None, (settings.kafka_bootstrap, purpose))),
            again=again,
            watch=partial(_watch, bar, noun),
            form=form,
        )
        try:
            return event_loop.run(running)
        except KeyboardInterrupt:
            click.echo("run the same command again: what is sent twice counts once", err=True)
            raise
        except DeliveryFailed as error:
            raise MeterstreamError(f"{error}. Run the same command again to go on from there") from error


def _watch(bar: Bar, noun: str, file: UsageFile) -> Watch:
    from meterstream.producers.publish import Watch

    task = bar.add_task("publishing", total=file.size)
    shown = 0

    def refused(number: int, problem: str) -> None:
        nonlocal shown
        shown += 1
        if shown <= BAD_SHOWN_MAX:
            text = printable(f"{file.name}:{number}: {problem}")
            bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif shown == BAD_SHOWN_MAX + 1:
            bar.console.print(f"... further bad {noun}s of {printable(file.name)} are only counted", markup=False)

    def progressed(counts: Counts) -> None:
        bad = counts.refused + counts.invalid
        bar.update(task, completed=file.bytes_read(), description=f"{counts.sent:,} sent, {bad:,} bad")

    return Watch(refused=refused, progressed=progressed)


def report(published: Published, policy: PublishPolicy, noun: str = "line") -> None:
    """Says how a run ended. `noun`: what the file is made of."""
    from meterstream.schema.wire_event import AGE_MAX

    progress, counts = published.progress, published.counts
    if published.was_complete and not counts.sent:
        click.echo(f"already published: {counted(progress.sent, 'event')}; use --again to send them again")
    else:
        earlier = progress.sent - counts.sent
        before = f"; earlier runs had sent {earlier:,}" if earlier > 0 else ""
        click.echo(
            f"{counted(counts.sent, 'event')} sent to {policy.topic} and confirmed{before}; "
            f"the file has {counted(counts.lines, noun)}"
        )
    if counts.invalid:
        click.echo(f"{counted(counts.invalid, f'bad {noun}')} among them: expect as many rejected")
    if counts.too_old:
        click.echo(
            f"{counted(counts.too_old, 'event')} will be rejected: {policy.topic} takes what is at most "
            f"{AGE_MAX.days} days old; publish with --topic usage.backfill",
            err=True,
        )
    if counts.refused:
        was, them = ("was", "it") if counts.refused == 1 else ("were", "them")
        click.echo(f"{counted(counts.refused, f'bad {noun}')} {was} not sent: mend {them} and run this again", err=True)
