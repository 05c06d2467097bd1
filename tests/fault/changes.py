"""Budgets that are changed and removed while roles die: their history, and what must have become of each version."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer

from meterstream.deploy.kafka import client_options
from meterstream.schema import topics
from meterstream.schema.catalog import EARLIER_MAX, BudgetEntry, BudgetVersion, encode_entry
from meterstream.schema.settings import Settings
from tests import topic_log
from tests.fault.pipeline import Pipeline
from tests.oracle.live import Entry, Live, Plan

PICO = 10**12
NAME = "moving"
TENANTS = tuple(f"tenant-{number:05d}" for number in range(0, 20, 2))
PERCENTS = (1, 3, 10, 20, 30, 50, 75, 100, 150, 300)
PROVIDERS = (None, "openai")


Place = tuple[int, int, int]
"""(source_id, source partition, position)"""


class Version(NamedTuple):
    """One version of a budget, as the catalog says."""

    plan: Plan
    changed_ms: int
    is_removed: bool


class Alerted(NamedTuple):
    """What an alert says: pico, and the place of its event."""

    spent: int
    place: Place | None


Key = tuple[str, str]
"""(tenant, name)"""


async def change_budgets(pipeline: Pipeline, is_over: asyncio.Event) -> int:
    """Makes, changes and removes budgets until it is told to end; returns how often. Drawn from the pipeline's seed."""
    chance = random.Random(pipeline.seed)
    histories = await history(pipeline.settings)
    changes = 0
    while not is_over.is_set():
        tenant = chance.choice(TENANTS)
        earlier = histories.setdefault((tenant, NAME), [])
        changed = _changed(chance, tenant, earlier[-1] if earlier else None)
        await _send(pipeline.settings, encode_entry(BudgetEntry(**_fields(changed), earlier=_entries(earlier))))
        earlier.append(changed)
        changes += 1
        await asyncio.sleep(chance.uniform(0.1, 0.6))  # the schedule of the changes
    return changes


def _changed(chance: random.Random, tenant: str, known: Version | None) -> Version:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    amount = chance.randint(1, 100) * PICO // 50
    if known is None:
        plan = Plan(
            tenant=tenant, name=NAME, version=1, currency="USD", amount=amount, period="day", time_zone="UTC",
            week_start=1, anchor_day=1, percents=PERCENTS, provider=chance.choice(PROVIDERS),
        )  # fmt: skip
        return Version(plan, now_ms, is_removed=False)
    plan = replace(known.plan, version=known.plan.version + 1)
    dice = chance.random()
    if dice < 0.2 and not known.is_removed:
        return Version(plan, now_ms, is_removed=True)
    if dice < 0.5:
        plan = replace(plan, provider=chance.choice(PROVIDERS))
    return Version(replace(plan, amount=amount), now_ms, is_removed=False)


async def publish(settings: Settings, *plans: Plan) -> None:
    """To the catalog, as `budget add` would; nobody says when they were made."""
    entries = [BudgetEntry(**_fields(Version(plan, 0, is_removed=False))) for plan in plans]
    await _send(settings, *map(encode_entry, entries))


async def _send(settings: Settings, *records: tuple[bytes, bytes]) -> None:
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        for key, value in records:
            await producer.send_and_wait(topics.CATALOG, value, key=key)


def _entries(versions: Sequence[Version]) -> tuple[BudgetVersion, ...]:
    return tuple(BudgetVersion(**_fields(version)) for version in versions[-EARLIER_MAX:])


def _fields(version: Version) -> dict[str, Any]:
    plan = version.plan
    return {
        "tenant": plan.tenant,
        "name": plan.name,
        "version": plan.version,
        "amount": f"{Decimal(plan.amount) / PICO:f}",
        "currency": plan.currency,
        "period": plan.period,
        "time_zone": plan.time_zone,
        "week_start": plan.week_start,
        "anchor_day": plan.anchor_day,
        "thresholds": plan.percents,
        "provider": plan.provider,
        "model": plan.model,
        "removed": version.is_removed,
        "changed_at": datetime.fromtimestamp(version.changed_ms / 1000, UTC) if version.changed_ms else None,
    }


async def history(settings: Settings) -> dict[Key, list[Version]]:
    """Every version of every budget that the catalog ever held, in order. Read without the product."""
    found: dict[Key, list[Version]] = defaultdict(list)
    for record in await topic_log.read(client_options(settings), topics.CATALOG):
        entry = json.loads(record.value or b"{}")
        if entry.get("kind") == "budget":
            plan = Plan(
                tenant=entry["tenant"],
                name=entry["name"],
                version=entry["version"],
                currency=entry["currency"],
                amount=int(Decimal(entry["amount"]) * PICO),
                period=entry["period"],
                time_zone=entry["time_zone"],
                week_start=entry["week_start"],
                anchor_day=entry["anchor_day"],
                percents=tuple(entry["thresholds"]),
                provider=entry.get("provider"),
                model=entry.get("model"),
            )
            changed_ms = 0
            if "changed_at" in entry:
                changed_ms = round(datetime.fromisoformat(entry["changed_at"]).timestamp() * 1000)
            found[plan.tenant, plan.name].append(Version(plan, changed_ms, entry.get("removed", False)))
    return dict(found)


def judge_version(
    live: Live, version: Version, found: Mapping[str, Alerted], after: Version | None = None
) -> list[str]:
    """Differences of one version's alerts; `after` is the version that followed it.

    Where a version began is not in the log: any place will do, but all its alerts must fit one and the same. Nor is
    where the aggregator has learned of the next one: events of that one's time may have been taken before it did.
    """
    plan = version.plan
    if version.is_removed:
        return [f"{plan}: {len(found)} alerts of a removed budget"] if found else []
    until = after.changed_ms if after is not None else None
    begins = {0}
    before = {alerted.spent for alerted in found.values() if alerted.place is None}
    if before:
        starts = {plan.period_of(entry.row.occurred_ms)[0] for entry in live.entries[plan.tenant]}
        begins |= {begin for spent in before for start in starts for begin in live.offsets_at(plan, start, spent)}
    late = [each.offset + 1 for each in live.entries[plan.tenant] if until and each.row.appended_ms >= until]
    for taken in [0, *late]:
        for begin in begins:
            wanted = live.alerts_of_version(plan, begin, version.changed_ms, until, taken)
            if found == {
                name: Alerted(spent, place_of(entry) if entry else None) for name, (spent, entry) in wanted.items()
            }:
                return []
    most = live.alerts_of_version(plan, 0, version.changed_ms, until)
    return [
        f"{version}, until {until}: {dict(found)} fits none of {len(begins)} beginnings and {len(late) + 1} ends; "
        f"from the log's beginning on it is {most}"
    ]


def place_of(entry: Entry) -> Place:
    """Of the event."""
    return (*entry.source, entry.row.position)
