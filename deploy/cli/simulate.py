"""`meterstream simulate`: made-up usage of a stated seed, with what must become of it."""

from __future__ import annotations

import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, get_args

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.number import Number, Whole
from meterstream.deploy.cli.text import counted, utc
from meterstream.producers.simulated import Profile

if TYPE_CHECKING:
    from meterstream.producers.simulate import SimulatorConfig
    from meterstream.producers.simulate_change import PriceChange
    from meterstream.producers.simulate_totals import SimulationTotals
    from meterstream.producers.simulated import SimulatedRecord

TOPICS: Final = ("usage.raw", "usage.backfill")
SEEDS: Final = 10**6
SEED_MAX: Final = 2**63 - 1
EVENTS_MAX: Final = 10**9
TENANTS_MAX: Final = 10**6
RATE_MIN: Final = 0.001
RATE_MAX: Final = 10**6
DURATION_MAX: Final = timedelta(days=366)


@click.command("simulate")
@click.option("--seed", type=Whole(0, SEED_MAX), help="Makes a run repeatable; one is drawn and printed otherwise.")
@click.option(
    "--events", type=Whole(0, EVENTS_MAX), default=100_000, show_default=True, help="How many to send in all."
)
@click.option("--rate", type=Number(RATE_MIN, RATE_MAX), help="Events a second; as fast as possible otherwise.")
@click.option("--tenants", type=Whole(1, TENANTS_MAX), default=100, show_default=True)
@click.option("--profile", type=click.Choice(get_args(Profile)), default="lean", show_default=True)
@click.option("--topic", type=click.Choice(TOPICS), default=TOPICS[0], show_default=True)
@click.option(
    "--price-change",
    is_flag=True,
    help="The price of a made-up model changes in the middle; its prices are added to the book, for good.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def simulate_command(
    seed: int | None,
    events: int,
    rate: float | None,
    tenants: int,
    profile: Profile,
    topic: str,
    price_change: bool,
    as_json: bool,
) -> None:
    """Send made-up usage: skewed tenants, bursts, re-sends, late events, broken records.

    With --rate events happen as they are sent; without, they are spread over the last hour. At the end it says what
    must become of them, to the last digit, at the prices that come with this version. With --price-change the raters
    are told of the new prices first.
    """
    from meterstream.producers.simulate import SimulatorConfig
    from meterstream.producers.simulate_change import PriceChange
    from meterstream.producers.simulate_totals import SimulationTotals, shipped_rates

    seed = secrets.randbelow(SEEDS) if seed is None else seed
    now = datetime.now(UTC)
    start, end = (now - timedelta(hours=1), now) if rate is None else (now, now + _duration(events, rate))
    run = f"{seed}/{now:%Y%m%dT%H%M%S.%f}"  # no other: its ids must not meet those of an earlier run with the same seed
    change = PriceChange.in_the_middle(run, start, end) if price_change else None
    config = SimulatorConfig(
        seed=seed,
        events=events,
        start=start,
        end=end,
        tenants=tenants,
        profile=profile,
        topic=topic,
        source=f"simulator/{run}",
        price_change_at=None if change is None else change.at,
        changed_model=None if change is None else change.model,
    )
    if not as_json:
        click.echo(f"seed {seed}, source {config.source}")
    totals = SimulationTotals({**shipped_rates(), **(change.rates() if change else {})})
    if change is not None:
        _add_prices(change)
        if not as_json:
            click.echo(f"the price of {change.model.provider} {change.model.model} changes at {utc(change.at)}")
    begun = time.monotonic()
    try:
        event_loop.run(_send(config, rate, totals))
    except KeyboardInterrupt:
        click.echo(f"{counted(totals.sent, 'event')} handed over", err=True)
        raise
    seconds = time.monotonic() - begun
    if as_json:
        click.echo(json.dumps(_as_json(config, change, totals, seconds)))
    else:
        _report(config, totals, seconds)


def _duration(events: int, rate: float) -> timedelta:
    duration = timedelta(seconds=events / rate)
    if duration > DURATION_MAX:
        raise click.BadParameter(
            f"{events:,} events at {rate:g} a second take {duration.days:,} days: ask for fewer, or for more a second",
            param_hint="'--rate'",
        )
    return duration


def _add_prices(change: PriceChange) -> None:
    """Before the first event comes: an event keeps the prices that were known when it was rated."""
    from meterstream.deploy.connections import resolve
    from meterstream.deploy.pricing import prices
    from meterstream.deploy.running.raters import await_revision
    from meterstream.schema.settings import Settings

    settings = Settings.load()
    resolved = resolve(settings, ("kafka_bootstrap", "postgres_admin_dsn"))
    added = event_loop.run(prices.add(resolved, change.lines(), f"simulate: a price that changes, run {change.run}"))
    await_revision(settings, added.revision)


async def _send(config: SimulatorConfig, rate: float | None, totals: SimulationTotals) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from meterstream.deploy.connections import resolve
    from meterstream.deploy.kafka import client_options
    from meterstream.producers.send import send_records
    from meterstream.producers.simulate import simulate
    from meterstream.producers.transport.kafka import KafkaTransport
    from meterstream.schema.settings import Settings

    settings = resolve(Settings.load(), ("kafka_bootstrap",))
    console = Console(stderr=True)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=config.events)

        def sent(record: SimulatedRecord) -> None:
            totals.add(record)
            bar.update(task, completed=totals.sent)

        async with KafkaTransport(client_options(settings)) as transport:
            await send_records(simulate(config), transport, rate=rate, sent=sent)


def _report(config: SimulatorConfig, totals: SimulationTotals, seconds: float) -> None:
    from meterstream.producers.simulate_totals import CURRENCY

    rejected = totals.rejected.total()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in totals.rejected.most_common())
    click.echo(f"{counted(totals.sent, 'event')} sent to {config.topic} and confirmed in {seconds:.1f} s. To expect:")
    click.echo(f"{totals.accepted:>9,} in the ledger, {totals.unpriced:,} of them of a model without a price")
    click.echo(f"{totals.duplicates:>9,} {'duplicate' if totals.duplicates == 1 else 'duplicates'}")
    click.echo(f"{rejected:>9,} rejected" + (f": {reasons}" if reasons else ""))
    click.echo(f"  {CURRENCY} {totals.amount_text} in all, at the prices that come with this version")
    query = "SELECT currency, count(*), sum(amount) FROM meter.usage_events WHERE source = '{}' GROUP BY 1;"
    click.echo(f"Compare  {query.format(config.source)}")


def _as_json(
    config: SimulatorConfig, change: PriceChange | None, totals: SimulationTotals, seconds: float
) -> dict[str, object]:
    from meterstream.producers.simulate_totals import CURRENCY

    return {
        "seed": config.seed,
        "source": config.source,
        "topic": config.topic,
        "sent": totals.sent,
        "ledger": totals.accepted,
        "unpriced": totals.unpriced,
        "duplicates": totals.duplicates,
        "rejected": totals.rejected.total(),
        "rejected_by_reason": dict(totals.rejected.most_common()),
        "price_change": None if change is None else {"model": change.model.model, "at": utc(change.at)},
        "amounts": {CURRENCY: totals.amount_text},
        "seconds": round(seconds, 3),
    }
