"""The live side of a pipeline under faults: budgets to watch, and the judgement of what was published."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import NamedTuple

import asyncpg

from meterstream.deploy.kafka import client_options
from meterstream.schema import topics
from meterstream.schema.aggregate import Aggregate, BudgetState, Progress, Window, decode_aggregate
from meterstream.schema.alert import Alert, decode_alert
from meterstream.schema.settings import Settings
from tests import topic_log
from tests.background import beside
from tests.fault.changes import NAME as MOVING
from tests.fault.changes import PICO, Alerted, Key, Version, history, judge_version, place_of, publish
from tests.fault.pipeline import Pipeline
from tests.fault.roles import ROLES, Role
from tests.oracle.live import DAY, HOUR, Counts, Live, LogRecord, Model, Plan
from tests.oracle.priced import log_record

PERCENTS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100, 120, 150, 200, 300, 500, 1000)
TENANTS = 40
BUCKETS_OF_ALL = 16 * 32
ZONES = ("Europe/Berlin", "Asia/Kolkata", "America/New_York", "UTC")


WindowKey = tuple[str, str, int]
"""(tenant, hour or day, number since 1970)"""


class Expected(NamedTuple):
    """What the model says of the whole priced log."""

    partitions: list[Live]
    windows: dict[WindowKey, dict[Model, Counts]]
    alerts: dict[str, Alerted]
    """Of budgets that were there from the beginning on, by id."""
    versions: dict[Key, list[Version]]

    def __str__(self) -> str:
        return f"{len(self.windows)} windows, {len(self.alerts)} alerts of budgets that stay"

    def plan(self, key: Key) -> Plan | None:
        """The newest version of a budget; None when it was removed."""
        version = self.versions[key][-1]
        return None if version.is_removed else version.plan

    def spent(self, plan: Plan, start_ms: int) -> int:
        """In the plan's period that begins then, pico."""
        return sum(live.spent(plan, start_ms, len(live.log)) for live in self.partitions)


def plans() -> list[Plan]:
    """Dense ladders of budgets on most tenants, some of them in a scope."""
    found = []
    for number in range(TENANTS):
        plan = Plan(
            tenant=f"tenant-{number:05d}",
            name="scoped",
            version=1,
            currency="USD",
            amount=PICO // 50,
            period="day",
            time_zone="UTC",
            week_start=1,
            anchor_day=1,
            percents=PERCENTS,
            provider="openai",
            model=None if number % 2 else "gpt-4o-mini",
        )
        found.append(plan)
        for currency in ("USD", "EUR"):
            found.append(
                replace(
                    plan,
                    name=f"all-{currency}",
                    currency=currency,
                    amount=(3 + number) * PICO // 10,
                    period=("day", "week", "month")[number % 3],
                    time_zone=ZONES[number % 4],
                    provider=None,
                    model=None,
                )
            )
    return found


async def publish_budgets(settings: Settings) -> None:
    """To the catalog, as `budget add` would."""
    await publish(settings, *plans())


async def wait_until_live(pipeline: Pipeline) -> None:
    """Until everything on usage.priced has been folded and published, with the newest versions of all budgets."""
    newest = {key: versions[-1] for key, versions in (await history(pipeline.settings)).items()}
    versions = {key: version.plan.version for key, version in newest.items() if not version.is_removed}
    wanted = {number: end for number, end in (await ends(pipeline.settings, topics.PRICED)).items() if end}

    async def is_published() -> bool:
        offsets: dict[int, int] = defaultdict(int)
        for _, aggregate in await _aggregates(pipeline.settings):
            if isinstance(aggregate, Progress):
                offsets[aggregate.partition] = max(offsets[aggregate.partition], aggregate.offset)
        published = await _newest(pipeline.settings)
        states = {
            (each.tenant, each.name): each.version for each in published.values() if isinstance(each, BudgetState)
        }
        return states == versions and all(offsets[number] >= end for number, end in wanted.items())

    await pipeline.wait("everything is published", is_published)


async def wake_up_late(pipeline: Pipeline, program: Sequence[str] = ROLES) -> None:
    """An aggregator pauses with a cut in its hands, loses everything to another, and sends its cut after the other's.

    Both are killed then, and a third one has to make sense of what they have left.
    """
    await pipeline.start("rater")
    paused = await pipeline.start("aggregator", is_alone=False, armed=["after_cut:12:stop"], program=program)
    async with beside(pipeline.publish):
        await pipeline.wait("the first pauses", paused.is_paused)
        await pipeline.throw_out("aggregator")
        successor = await pipeline.start("aggregator", is_alone=False, program=program)
        await pipeline.wait("the second is live", partial(_has_said, successor, "live: partitions"))
        stored = await ends(pipeline.settings, topics.AGGREGATOR_STATE)

        async def has_stored_all() -> bool:
            return len(await _keys_since(pipeline.settings, stored)) >= BUCKETS_OF_ALL

        await pipeline.wait("the second has stored every bucket", has_stored_all)
        successor.signal(signal.SIGSTOP)  # so that the woken one has the last word
        before = await _state_records(pipeline.settings)
        paused.signal(signal.SIGCONT)

        async def has_stored_late() -> bool:
            return await _state_records(pipeline.settings) > before

        await pipeline.wait("the first stores what it had", has_stored_late)
        await pipeline.throw_out("aggregator")
        await asyncio.gather(paused.end(), successor.end())
        await pipeline.start("aggregator", program=program)


async def _has_said(role: Role, text: str) -> bool:
    return text in role.said()


async def _state_records(settings: Settings) -> int:
    return sum((await ends(settings, topics.AGGREGATOR_STATE)).values())


async def _keys_since(settings: Settings, begins: Mapping[int, int]) -> set[bytes]:
    """Of the state's records behind these offsets."""
    records = await topic_log.read(client_options(settings), topics.AGGREGATOR_STATE)
    return {record.key or b"" for record in records if record.offset >= begins[record.partition]}


async def judge_live(pipeline: Pipeline) -> Expected:
    """Compares alerts, windows and budgets on the topics with the model. Fails on any difference."""
    expected = await _expected(pipeline.settings)
    published = list((await _newest(pipeline.settings)).values())
    alerts = await raised_alerts(pipeline.settings)
    differences = [
        *_compare_alerts(expected, [alert for alert in alerts if alert.data.budget != MOVING]),
        *_compare_moving(expected, [alert for alert in alerts if alert.data.budget == MOVING]),
        *_compare_windows(expected, [each for each in published if isinstance(each, Window)]),
        *_compare_budgets(expected, [each for each in published if isinstance(each, BudgetState)]),
    ]
    assert not differences, f"seed {pipeline.seed}: {len(differences)} differences: {differences[:10]}"
    return expected


async def judge_stored(pipeline: Pipeline, expected: Expected) -> None:
    """Compares alerts and budgets in Postgres with the model, once the sink has everything. Fails on any difference."""
    wanted = {
        key: expected.spent(plan, _ms(state.period_start))
        for state in (await _newest(pipeline.settings)).values()
        if isinstance(state, BudgetState) and (plan := expected.plan(key := (state.tenant, state.name)))
    }
    # Those of budgets that moved were judged on the topic; here they must be the same.
    raised = {
        alert.id: _alerted(alert) for alert in await raised_alerts(pipeline.settings) if alert.data.budget == MOVING
    } | expected.alerts
    stored: list[list[asyncpg.Record]] = []

    async def is_stored() -> bool:
        stored[:] = await _stored(pipeline.settings)
        alerts, states = stored
        return len(alerts) >= len(raised) and _spent(states) == wanted

    try:
        await pipeline.wait("alerts and budgets are stored", is_stored)
    finally:
        alerts, states = stored
        kept = {str(alert["alert_id"]): _kept(alert) for alert in alerts}
        assert len(kept) == len(alerts)
        assert kept == raised, f"seed {pipeline.seed}: {kept.items() ^ raised.items()}"
        assert _spent(states) == wanted, f"seed {pipeline.seed}: {_spent(states).items() ^ wanted.items()}"


async def _stored(settings: Settings) -> list[list[asyncpg.Record]]:
    connection = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    try:
        return [
            await connection.fetch("SELECT alert_id, spent, source_id, source_partition, position FROM meter.alerts"),
            await connection.fetch("SELECT tenant, name, spent FROM meter.budget_states"),
        ]
    finally:
        await connection.close()


def _spent(states: list[asyncpg.Record]) -> dict[tuple[str, str], int]:
    return {(state["tenant"], state["name"]): _pico(state["spent"]) for state in states}


def _kept(alert: asyncpg.Record) -> Alerted:
    place = (alert["source_id"], alert["source_partition"], alert["position"])
    return Alerted(_pico(alert["spent"]), None if alert["position"] is None else place)


def _alerted(alert: Alert) -> Alerted:
    place = alert.data.place
    return Alerted(
        _pico(alert.data.spent),
        None if place is None else (place.source_id, place.source_partition, place.position),
    )


async def _expected(settings: Settings) -> Expected:
    logs: dict[int, list[LogRecord]] = defaultdict(list)
    for record in await topic_log.read(client_options(settings), topics.PRICED):
        logs[record.partition].append(log_record(record.value or b"", is_coverage=bool(record.headers)))
    partitions = [Live(log) for log in logs.values()]
    return Expected(
        partitions,
        {key: models for live in partitions for key, models in live.windows(len(live.log)).items()},
        {
            name: Alerted(spent, place_of(entry))
            for live in partitions
            for plan in plans()
            for name, (spent, entry) in live.alerts(plan).items()
        },
        await history(settings),
    )


def _compare_alerts(expected: Expected, alerts: list[Alert]) -> list[str]:
    by_id: dict[str, set[Alerted]] = defaultdict(set)
    for alert in alerts:
        by_id[alert.id].add(_alerted(alert))
    wanted = expected.alerts
    differences = [f"alert {name} is missing" for name in wanted.keys() - by_id.keys()]
    differences += [f"alert {name} was never due" for name in by_id.keys() - wanted.keys()]
    for name in wanted.keys() & by_id.keys():
        if by_id[name] != {wanted[name]}:
            differences.append(f"alert {name}: {by_id[name]}, not {wanted[name]}")
    return differences


def _compare_moving(expected: Expected, alerts: list[Alert]) -> list[str]:
    found: dict[tuple[str, int], dict[str, Alerted]] = defaultdict(dict)
    differences = []
    for alert in alerts:
        said = found[alert.tenant, alert.data.version]
        if said.setdefault(alert.id, _alerted(alert)) != _alerted(alert):
            differences.append(f"alert {alert.id}: {_alerted(alert)} after {said[alert.id]}")
    for (tenant, name), versions in expected.versions.items():
        if name == MOVING:
            for live in [live for live in expected.partitions if tenant in live.entries]:
                for version, after in zip(versions, [*versions[1:], None], strict=True):
                    own = found.pop((tenant, version.plan.version), {})
                    differences += judge_version(live, version, own, after)
    return differences + [f"alerts of versions that never were: {found}"] * bool(found)


def _compare_windows(expected: Expected, published: list[Window]) -> list[str]:
    lengths = {"hour": HOUR, "day": DAY}
    found: dict[WindowKey, dict[Model, Counts]] = {}
    for window in published:
        found[window.tenant, window.window, _ms(window.start) // lengths[window.window]] = {
            (sums.provider, sums.model, sums.currency): (
                sums.events,
                sums.errors,
                sums.unpriced_events,
                sums.input_tokens,
                sums.output_tokens,
                _pico(sums.amount),
                _pico(sums.adjustment_amount),
            )
            for sums in window.models
        }
    differences = [f"window {key} is missing" for key in expected.windows.keys() - found.keys()]
    differences += [f"window {key} is too much" for key in found.keys() - expected.windows.keys()]
    differences += [
        f"window {key}: {found[key]} instead of {models}"
        for key, models in expected.windows.items()
        if key in found and found[key] != models
    ]
    return differences


def _compare_budgets(expected: Expected, published: list[BudgetState]) -> list[str]:
    differences = []
    for state in published:
        plan = expected.plan((state.tenant, state.name))
        if plan is None or plan.version != state.version:
            differences.append(f"{state}: the newest version is {plan}")
        elif _pico(state.spent) != (spent := expected.spent(plan, _ms(state.period_start))) or state.provisional:
            differences.append(f"{state}: spent is {spent}")
    return differences


def _pico(amount: str | Decimal | None) -> int:
    return int(Decimal(amount or 0) * PICO)


def _ms(at: datetime) -> int:
    return int(at.timestamp()) * 1000


async def newest_windows(settings: Settings) -> list[Window]:
    """What the topic says of every window that has not left."""
    return [aggregate for aggregate in (await _newest(settings)).values() if isinstance(aggregate, Window)]


async def newest_budgets(settings: Settings) -> list[BudgetState]:
    """What the topic says of every budget that there is."""
    return [aggregate for aggregate in (await _newest(settings)).values() if isinstance(aggregate, BudgetState)]


async def _newest(settings: Settings) -> dict[bytes, Window | BudgetState]:
    """As a reader believes the topic: of each key the highest offset; a tombstone ends it."""
    newest: dict[bytes, Window | BudgetState] = {}
    for key, aggregate in await _aggregates(settings):
        if aggregate is None:
            newest.pop(key, None)
        elif not isinstance(aggregate, Progress) and (key not in newest or aggregate.offset >= newest[key].offset):
            newest[key] = aggregate
    return newest


async def ends(settings: Settings, topic: str) -> dict[int, int]:
    """partition -> end offset."""
    found = await topic_log.ends(client_options(settings), topic)
    return {partition.partition: end for partition, end in found.items()}


async def raised_alerts(settings: Settings) -> list[Alert]:
    """All that were ever sent, those too that were sent again."""
    return [decode_alert(r.value or b"") for r in await topic_log.read(client_options(settings), topics.ALERTS)]


async def _aggregates(settings: Settings) -> list[tuple[bytes, Aggregate | None]]:
    return [
        (r.key or b"", None if r.value is None else decode_aggregate(r.value))
        for r in await topic_log.read(client_options(settings), topics.AGGREGATES)
    ]
