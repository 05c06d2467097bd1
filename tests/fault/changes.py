"""Budgets that are changed and removed while roles die: their history, and what must have become of each version."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from meterstream.deploy.kafka import client_options
from meterstream.schema import topics
from meterstream.schema.catalog import BudgetEntry, encode_entry
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
    newest = {key: versions[-1] for key, versions in (await history(pipeline.settings)).items()}
    changes = 0
    while not is_over.is_set():
        tenant = chance.choice(TENANTS)
        known = newest.get((tenant, NAME))
        changed = _changed(chance, tenant, known)
        await publish(pipeline.settings, changed.plan, changed_ms=changed.changed_ms, is_removed=changed.is_removed)
        newest[tenant, NAME] = changed
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


async def publish(settings: Settings, *plans: Plan, changed_ms: int | None = None, is_removed: bool = False) -> None:
    """To the catalog, as `budget add` and `budget rm` would."""
    changed_at = None if changed_ms is None else datetime.fromtimestamp(changed_ms / 1000, UTC)
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        for plan in plans:
            entry = BudgetEntry(
                tenant=plan.tenant,
                name=plan.name,
                version=plan.version,
                amount=f"{Decimal(plan.amount) / PICO:f}",
                currency=plan.currency,
                period=plan.period,
                time_zone=plan.time_zone,
                week_start=plan.week_start,
                anchor_day=plan.anchor_day,
                thresholds=plan.percents,
                provider=plan.provider,
                model=plan.model,
                removed=is_removed,
                changed_at=changed_at,
            )
            key, value = encode_entry(entry)
            await producer.send_and_wait(topics.CATALOG, value, key=key)


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


def judge_version(live: Live, version: Version, found: Mapping[str, Alerted], *, is_newest: bool) -> list[str]:
    """Differences of one version's alerts. Where a version began is not in the log: any place will do.

    But all its alerts must fit one and the same place. The newest has all of them; one that was followed by another
    has those of its time: none is missing before one that is there.
    """
    plan = version.plan
    if version.is_removed:
        return [f"{plan}: {len(found)} alerts of a removed budget"] if found else []
    begins = {0}
    before = {alerted.spent for alerted in found.values() if alerted.place is None}
    if before:
        starts = {plan.period_of(entry.row.occurred_ms)[0] for entry in live.entries[plan.tenant]}
        begins = {begin for spent in before for start in starts for begin in live.offsets_at(plan, start, spent)}
    for begin in begins:
        wanted = live.alerts_of_version(plan, begin, version.changed_ms)
        said = {name: Alerted(spent, place_of(entry) if entry else None) for name, (spent, entry) in wanted.items()}
        offsets = {name: entry.offset if entry else -1 for name, (_, entry) in wanted.items()}
        if found == said or (not is_newest and found.items() <= said.items() and _is_prefix(offsets, found)):
            return []
    return [f"{version}: {dict(found)} fits none of {len(begins)} beginnings"]


def place_of(entry: Entry) -> Place:
    """Of the event."""
    return (*entry.source, entry.row.position)


def _is_prefix(offsets: Mapping[str, int], found: Mapping[str, Alerted]) -> bool:
    there = [offset for name, offset in offsets.items() if name in found]
    missing = [offset for name, offset in offsets.items() if name not in found]
    return not there or not missing or max(there) <= min(missing)
