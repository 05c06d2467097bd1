"""One run from an empty folder to the report."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import asyncpg

from meterstream.deploy.bench import checks, peers, testbed
from meterstream.deploy.bench.broker import Broker
from meterstream.deploy.bench.latency import latency
from meterstream.deploy.bench.live import aggregator_alone, make_budgets
from meterstream.deploy.bench.live_state import live_state
from meterstream.deploy.bench.live_truth import LiveTruth
from meterstream.deploy.bench.machine import describe
from meterstream.deploy.bench.options import TENANTS, Options
from meterstream.deploy.bench.pricing import pricing as price_engine
from meterstream.deploy.bench.ratios import ratios
from meterstream.deploy.bench.results import PricingFigures, ProfileFigures, Report, StateFigures
from meterstream.deploy.bench.stages import Alone, Bench, roles_alone, whole_box
from meterstream.deploy.bench.workload import FlatRates, rates_in_force
from meterstream.deploy.kafka import client_options
from meterstream.producers.simulated import Profile
from meterstream.schema.settings import PREFIX

NO_SCRIPTS = "the peers are not here: their scripts are in a checkout (tests/bench/peers), not in the package"
NO_FAUST = "the Faust idiom was left out: pip install faust-streaming"


def run(options: Options, say: Callable[[str], None]) -> Report:
    """Measures. Main thread only; blocks for a minute or more; `say` is told of progress.

    Raises MeterstreamError when a result is wrong: there are no figures then.
    """
    notes: list[str] = []
    stages = options.stages_to_run
    pricing = price_engine(options, say, notes) if "pricing" in stages else []
    if stages == ("pricing",):
        return _report(options, "not started", pricing=pricing, notes=notes)
    with testbed.stack_in_temporary_folder() as home:
        say("Kafka, Postgres and Valkey are up, in a temporary folder, with settings that survive a crash")
        return asyncio.run(_run(options, testbed.Testbed(home), say, pricing, notes))


async def _run(
    options: Options, bed: testbed.Testbed, say: Callable[[str], None], pricing: list[PricingFigures], notes: list[str]
) -> Report:
    await bed.prepare()
    rates, flat = rates_in_force(datetime.now(UTC))
    connection = await asyncpg.connect(bed.admin_dsn)
    try:
        async with Broker(client_options(bed.settings)) as broker:
            bench = Bench(options, bed, broker, connection, rates, LiveTruth(broker), say)
            await make_budgets(bench)
            figures = [await _profile(bench, profile, flat, notes) for profile in options.profiles]
            state = await live_state(bench) if "state" in options.stages_to_run else []
            checked = await checks.rollups(connection) if "sink" in options.stages_to_run else 0
            return _report(
                options,
                await connection.fetchval("SHOW server_version"),
                settings={name: value for name, value in bed.role_environment().items() if _is_tuning(name)},
                checked=checked,
                profiles=figures,
                state=state,
                pricing=pricing,
                notes=notes,
            )
    finally:
        await connection.close()


def _report(
    options: Options,
    postgres: str,
    *,
    settings: dict[str, str] | None = None,
    checked: int = 0,
    profiles: Sequence[ProfileFigures] = (),
    state: Sequence[StateFigures] = (),
    pricing: Sequence[PricingFigures] = (),
    notes: Sequence[str] = (),
) -> Report:
    return Report(
        machine=describe(postgres),
        seed=options.seed,
        events=options.events,
        warm_events=options.warm_events,
        tenants=TENANTS,
        durable=True,
        settings=settings or {},
        checked=checked,
        profiles=list(profiles),
        state=list(state),
        pricing=list(pricing),
        notes=list(dict.fromkeys(notes)),
    )


def _is_tuning(name: str) -> bool:
    return name.startswith(PREFIX) and name != f"{PREFIX}HOME" and name in os.environ


async def _profile(bench: Bench, profile: Profile, flat: dict[str, FlatRates], notes: list[str]) -> ProfileFigures:
    figures = ProfileFigures(profile)
    stages = bench.options.stages_to_run
    alone = None
    if "rater" in stages:
        alone = await roles_alone(bench, profile)
        figures.rater, figures.sink = alone.rater, alone.sink
    if "aggregator" in stages:
        figures.aggregator = await aggregator_alone(bench, profile)
    if bench.options.with_peers:
        await _peers(bench, profile, alone, flat, figures, notes)
    if "box" in stages:
        figures.box = await whole_box(bench, profile)
    if "latency" in stages:
        figures.latency = await latency(bench, profile)
    figures.ratios = ratios(figures)
    return figures


async def _peers(
    bench: Bench,
    profile: Profile,
    alone: Alone | None,
    flat: dict[str, FlatRates],
    figures: ProfileFigures,
    notes: list[str],
) -> None:
    scripts = peers.folder()
    if scripts is None:
        notes.append(NO_SCRIPTS)
        return
    if alone is not None:
        figures.peers.append(await peers.rater_floor(bench, scripts, profile, alone.lots, flat))
    if alone is not None and alone.sink is not None:
        figures.peers.append(await peers.plain_copy(bench, scripts, alone.lots[1]))
    if not peers.has_faust():
        notes.append(NO_FAUST)
        return
    if alone is not None:
        figures.peers.append(await peers.faust_idiom(bench, scripts, profile, flat))
    if figures.aggregator:
        figures.peers += await peers.faust_live_idiom(bench, scripts, profile, flat)
