"""`meterstream bench`: CPU per event, rate and latency, on a stack of its own."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from typing import Final, get_args

import click

from meterstream.deploy.bench.options import STAGES, USUAL_PROFILES, Options, Stage
from meterstream.deploy.cli.number import Number, Whole
from meterstream.producers.simulated import Profile

SEEDS: Final = 10**6
PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)


@click.command()
@click.option("--events", type=Whole(1_000), default=60_000, show_default=True, help="In each stage.")
@click.option(
    "--profile",
    "profiles",
    type=click.Choice(PROFILES),
    multiple=True,
    default=USUAL_PROFILES,
    show_default=True,
    help="How much of an event is set; again for more.",
)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Beside floors and the Faust idiom.")
@click.option("--faust-events", type=Whole(100), default=9_000, show_default=True, help="It is slow.")
@click.option("--rate", type=Whole(1), default=5_000, show_default=True, help="Events a second, for latency.")
@click.option("--load-seconds", type=Number(1), default=10.0, show_default=True, help="Of that rate.")
@click.option(
    "--counters",
    type=Whole(2),
    multiple=True,
    default=(1_000, 100_000),
    show_default=True,
    help="Live counters, for state; again for more.",
)
@click.option("--only", type=click.Choice(STAGES), multiple=True, help="A stage; again for more. All otherwise.")
@click.option("--seed", type=Whole(0), help="Makes the events repeatable; one is drawn and printed otherwise.")
@click.option("--json", "as_json", is_flag=True, help="One object, for programs.")
def bench(
    events: int,
    profiles: tuple[Profile, ...],
    peers: bool,
    faust_events: int,
    rate: int,
    load_seconds: float,
    counters: tuple[int, ...],
    only: tuple[Stage, ...],
    seed: int | None,
    as_json: bool,
) -> None:
    """Measure CPU per event, rate and latency, here.

    Starts real servers in a temporary folder and removes them at the end (`--only pricing` needs none). Results are
    checked before a figure is printed.
    """
    from rich.console import Console

    from meterstream.deploy.bench.run import run
    from meterstream.deploy.bench.table import show

    options = Options(
        events=events,
        seed=secrets.randbelow(SEEDS) if seed is None else seed,
        profiles=tuple(dict.fromkeys(profiles)),
        stages=only or STAGES,
        with_peers=peers,
        faust_events=faust_events,
        rate=rate,
        load_s=load_seconds,
        counters=counters,
    )
    report = run(options, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        show(report, Console(width=120))
