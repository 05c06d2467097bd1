"""The aggregator alone over what the rater wrote: CPU per event, with packs of two sizes.

CPU per event = (a run over a lot - a run that only loads the same state) / the lot's events: a start reads the log
again as far back as ids are known, which costs more the longer the log is, and nothing for an event.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from meterstream.deploy.bench import budgets, checks
from meterstream.deploy.bench.broker import Offsets
from meterstream.deploy.bench.budgets import AMOUNT_PICO, THRESHOLDS, BenchBudget
from meterstream.deploy.bench.cpu import cpu_seconds
from meterstream.deploy.bench.options import TENANTS
from meterstream.deploy.bench.paced import PacedSender
from meterstream.deploy.bench.process import Child, Usage
from meterstream.deploy.bench.results import AggregatorFigures
from meterstream.deploy.bench.stages import Bench, is_rated, is_stored, preload, start, until
from meterstream.deploy.bench.workload import Lot, make_lot
from meterstream.deploy.running.health import Report, read_all
from meterstream.producers.simulated import Profile
from meterstream.schema.metrics import Metric
from meterstream.schema.topics import BACKFILL, PRICED, RAW, partitions_of

AGGREGATOR: Final = "aggregator"
SETTLED: Final = timedelta(seconds=3)
"""A role asks once a second where its topics end, and reports once a second."""
FULL: Final = "full packs"
LIVE: Final = "live packs"
LIVE_RATE: Final = 20_000
"""Events a second that a rater gets which makes live packs."""


@dataclass(frozen=True)
class LiveRun:
    """One run of the aggregator, from its start to its end. Seconds of CPU."""

    role: Usage
    broker_s: float
    sent: dict[str, int]
    """What it said it had sent before it was asked to end: aggregates, state, state_bytes."""


async def make_budgets(bench: Bench) -> None:
    """One a tenant, before the first event is priced."""
    made = [BenchBudget(f"tenant-{n:05d}", "bench", AMOUNT_PICO, THRESHOLDS) for n in range(TENANTS)]
    bench.truth.add(made)
    await budgets.publish(bench.broker.client_options, made)


async def aggregator_alone(bench: Bench, profile: Profile) -> list[AggregatorFigures]:
    """Over a lot in full packs, and one in packs as small as live traffic makes them. Raises MeterstreamError."""
    options = bench.options
    warm = make_lot(f"{profile}/live/warm", seed=options.seed, events=options.warm_events, profile=profile)
    await _rated(bench, warm)
    await folded(bench, options.warm_events)
    figures = []
    for packs, rate in ((FULL, _rated), (LIVE, _rated_live)):
        idle = await folded(bench, 0)
        lot = make_lot(f"{profile}/live/{packs}", seed=options.seed, events=options.events, profile=profile)
        priced = await rate(bench, lot)
        busy = await folded(bench, lot.sent)
        compared = await bench.truth.check()
        bench.say(
            f"{profile}: the aggregator has folded {lot.sent:,} events in {packs}; equal are "
            f"{compared.windows:,} windows, {compared.budgets:,} budgets, {compared.alerts:,} alerts"
        )
        figures.append(_figures(packs, idle, busy, lot.sent, priced))
    if {"box", "latency"} & set(options.stages_to_run):
        await _store(bench)
    return figures


async def _store(bench: Bench) -> None:
    """The lots out of the way of whoever measures the sink next."""
    end = await bench.broker.ends(RAW, partitions_of(RAW))
    async with start(bench, "sink-postgres") as sink:
        await until(lambda: is_stored(bench, end), events=3 * bench.options.events, watched=[sink], what="the sink")
        await sink.stop()


async def _rated(bench: Bench, lot: Lot) -> checks.Priced:
    """By a rater that finds all of it waiting: it fills its packs."""
    raw = await preload(bench, lot)
    begin = await bench.broker.ends(PRICED, partitions_of(PRICED))
    async with start(bench, "rater") as rater:
        await until(lambda: is_rated(bench, raw.end), events=lot.sent, watched=[rater], what="the rater")
        await rater.stop()
    return await _check_rated(bench, lot, begin)


async def _rated_live(bench: Bench, lot: Lot) -> checks.Priced:
    """By a rater that runs while the events come, at LIVE_RATE."""
    begin = await bench.broker.ends(PRICED, partitions_of(PRICED))
    records = list(lot.records)
    for record in records:
        lot.add(record)
    sources = partitions_of(RAW) + partitions_of(BACKFILL)
    async with start(bench, "rater") as rater, PacedSender(bench.broker.client_options) as sender:

        async def is_reading() -> bool:
            report = _report(bench, rater)
            return report is not None and report.detail.get(Metric.RATER_PARTITIONS) == sources

        await until(is_reading, events=0, watched=[rater], what="the rater")
        first_s = time.time()
        await sender.send(records, [first_s + number / LIVE_RATE for number in range(len(records))])
        end = await bench.broker.ends(RAW, partitions_of(RAW))
        await until(lambda: is_rated(bench, end), events=lot.sent, watched=[rater], what="the rater")
        await rater.stop()
    return await _check_rated(bench, lot, begin)


async def _check_rated(bench: Bench, lot: Lot, begin: Offsets) -> checks.Priced:
    found = await checks.priced(bench.broker, begin, await bench.broker.ends(PRICED, partitions_of(PRICED)), lot.source)
    found.must_be(lot.sent, lot.amount_pico(bench.rates, with_duplicates=True), "usage.priced")
    return found


async def folded(bench: Bench, events: int) -> LiveRun:
    """The aggregator from its start until it has folded, stored and committed everything, and ended."""
    kafka = bench.testbed.pid("kafka")
    broker_before = cpu_seconds(kafka)
    async with start(bench, AGGREGATOR) as role:
        await until_folded(bench, role, events=events, watched=[role])
        sent = detail(bench, role)[Metric.AGGREGATOR_SENT_TOTAL]
        usage = await role.stop()
    return LiveRun(usage, cpu_seconds(kafka) - broker_before, sent)


async def until_folded(bench: Bench, role: Child, *, events: int, watched: list[Child]) -> None:
    """Returns when the aggregator says, of the topic as it is now or later, that nothing of it is left to fold.

    What it has made of it is compared afterwards.
    """
    asked_at = datetime.now(UTC) + SETTLED

    async def is_folded() -> bool:
        report = _report(bench, role)
        return (
            report is not None
            and report.updated_at > asked_at
            and report.lag_records == 0
            and report.detail.get(Metric.AGGREGATOR_PARTITIONS) == partitions_of(PRICED)
        )

    await until(is_folded, events=events, watched=watched, what=AGGREGATOR)


def detail(bench: Bench, role: Child) -> dict[str, Any]:
    """What the process said of itself last; {} when it has not yet."""
    report = _report(bench, role)
    return {} if report is None else report.detail


def _report(bench: Bench, role: Child) -> Report | None:
    for health in read_all(bench.testbed.home):
        if health.role == role.name and health.report is not None and health.report.process.pid == role.pid:
            return health.report
    return None


def _figures(packs: str, idle: LiveRun, busy: LiveRun, events: int, priced: checks.Priced) -> AggregatorFigures:
    def each(name: str) -> float:
        return (busy.sent.get(name, 0) - idle.sent.get(name, 0)) / events

    return AggregatorFigures(
        packs=packs,
        events=events,
        rows_a_pack=priced.events / priced.packs,
        cpu_us=(busy.role.cpu_s - idle.role.cpu_s) / events * 1e6,
        broker_us=(busy.broker_s - idle.broker_s) / events * 1e6,
        rss_peak_bytes=busy.role.rss_peak_bytes,
        aggregates=each("aggregates"),
        state_records=each("state"),
        state_bytes=each("state_bytes"),
    )
