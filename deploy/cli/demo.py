"""`meterstream demo`: see it work, from real usage to exact money."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from meterstream.deploy.cli.number import Whole

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from meterstream.deploy.demo.run import Progress

STAGES: Final = ("published", "priced", "in Postgres")


@click.command("demo")
@click.option("--events", type=Whole(1), help="So many of the 28,185 requests, evenly thinned.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--keep", is_flag=True, help="Leave everything running at the end.")
def demo(events: int | None, as_json: bool, keep: bool) -> int:
    """Run real usage through real Kafka into Postgres.

    Starts the servers in this folder, publishes a day of LLM requests (an hour of the Azure LLM inference trace
    2023, stretched) with re-sends and broken records among them, and shows what became of each. Stops everything
    at the end; the data stay.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from meterstream.deploy.demo import run as demos
    from meterstream.deploy.demo.text import render, to_json
    from meterstream.schema.settings import Settings

    console = Console(stderr=True)
    columns = (TextColumn("  {task.description:<12}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        outcome = demos.run(Settings.load(), events=events, keep=keep, listener=_Screen(bars))
    if as_json:
        click.echo(to_json(outcome))
    else:
        click.echo(render(outcome, is_unicode=_writes_blocks()))
    return 0 if outcome.is_good else 1


class _Screen:
    """Steps as lines, progress as bars, on standard error."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: list[TaskID] = []

    def step(self, text: str) -> None:
        """One line."""
        self._bars.console.print(text, markup=False, highlight=False)

    def progress(self, progress: Progress) -> None:
        """One bar a stage."""
        if not self._tasks:
            self._tasks = [self._bars.add_task(stage, total=progress.total) for stage in STAGES]
        for task, done in zip(self._tasks, (progress.published, progress.priced, progress.stored), strict=True):
            self._bars.update(task, completed=done)


def _writes_blocks() -> bool:
    """Can standard output show block characters?"""
    try:
        "▁█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
