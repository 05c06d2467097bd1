"""Budgets that change while nobody counts, or before what is to be counted has been priced."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from meterstream.deploy.kafka import client_options
from meterstream.deploy.live import budgets
from meterstream.processors.aggregation.service import STILL_S
from meterstream.producers.simulate import MODELS
from meterstream.schema import topics
from meterstream.schema.alert import Alert, decode_alert
from tests import topic_log
from tests.fault.changes import PICO, place_of
from tests.fault.live import wait_until_live
from tests.fault.pipeline import Pipeline
from tests.oracle.live import Live, LogRecord, Plan
from tests.oracle.priced import log_record

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

EACH_USD = 15
"""What one event costs: a million input tokens of the first model."""
STAYS, GOES, COMES = "stays", "goes", "comes"


async def use(pipeline: Pipeline, tenant: str, count: int, partitions: int = 1) -> None:
    """So many events in turn to each of these partitions of `usage.raw`, all of them appended."""
    model = MODELS[0]
    event = {
        "specversion": "1.0", "type": "meterstream.usage.v1", "source": "shop", "tenant": tenant,
        "data": {
            "provider": model.provider, "model": model.model, "operation": "chat",
            "usage": {"input_tokens": 1_000_000},
        },
    }  # fmt: skip
    async with AIOKafkaProducer(**client_options(pipeline.settings)) as producer:
        for number in range(count):
            now = datetime.now(UTC).isoformat()
            value = json.dumps(event | {"id": str(uuid4()), "time": now}).encode()
            await producer.send_and_wait(topics.RAW, value, partition=number % partitions)


async def set_budget(pipeline: Pipeline, tenant: str, name: str, events: int, *percents: int) -> None:
    """To what so many events cost."""
    fields = {"amount": str(events * EACH_USD), "currency": "USD", "thresholds": percents}
    await budgets.add(pipeline.settings, {"tenant": tenant, "name": name, **fields})


async def change_while_events_come(pipeline: Pipeline, tenant: str, partitions: int) -> None:
    """Three events have come before; thirteen there are afterwards."""
    await use(pipeline, tenant, 3, partitions)
    await set_budget(pipeline, tenant, STAYS, 8, 50, 100, 500)
    await budgets.remove(pipeline.settings, tenant, GOES)
    await set_budget(pipeline, tenant, COMES, 7, 50, 100)
    await use(pipeline, tenant, 3, partitions)
    await set_budget(pipeline, tenant, STAYS, 20, 40, 60, 500)
    await budgets.remove(pipeline.settings, tenant, COMES)
    await use(pipeline, tenant, 4, partitions)
    await set_budget(pipeline, tenant, COMES, 26, 10, 50, 100)


LEVELS = {
    (STAYS, 1, 50), (STAYS, 2, 50), (STAYS, 2, 100), (STAYS, 3, 40), (STAYS, 3, 60), (GOES, 1, 100), (COMES, 1, 50),
    (COMES, 1, 100), (COMES, 3, 10), (COMES, 3, 50),
}  # fmt: skip
"""(budget, version, percent) that are reached by the events of that version's time; a removal is a version too."""


async def prepare(pipeline: Pipeline, tenant: str) -> None:
    """Budgets that the aggregator has counted three events of."""
    await set_budget(pipeline, tenant, STAYS, 10, 50, 100)
    await set_budget(pipeline, tenant, GOES, 5, 100, 140)
    await wait_until_live(pipeline)
    await use(pipeline, tenant, 3)
    await pipeline.wait("three are priced", partial(_are_priced, pipeline, tenant, 3))
    await wait_until_live(pipeline)


async def test_budgets_that_change_while_the_aggregator_is_away(pipeline: Pipeline) -> None:
    tenant = "away"
    await pipeline.start("rater")
    await pipeline.start("sink-postgres")
    aggregator = await pipeline.start("aggregator")
    await prepare(pipeline, tenant)
    await aggregator.stop()
    await change_while_events_come(pipeline, tenant, 1)
    await pipeline.wait("all are priced", partial(_are_priced, pipeline, tenant, 13))
    await pipeline.start("aggregator")
    assert_named(await judge(pipeline, tenant))


async def test_budgets_that_change_while_the_aggregator_stands_still(pipeline: Pipeline) -> None:
    """Woken, it is given at once what came meanwhile. After too long it starts again, with the same result."""
    tenant = "still"
    await pipeline.start("rater")
    await pipeline.start("sink-postgres")
    aggregator = await pipeline.start("aggregator")
    await prepare(pipeline, tenant)
    aggregator.signal(signal.SIGSTOP)
    await change_while_events_come(pipeline, tenant, 1)
    await pipeline.wait("all are priced", partial(_are_priced, pipeline, tenant, 13))
    await asyncio.sleep(2 * STILL_S)  # how long it stands still, at least
    aggregator.signal(signal.SIGCONT)
    assert_named(await judge(pipeline, tenant))


async def test_budgets_that_change_before_the_events_are_priced(pipeline: Pipeline) -> None:
    """The aggregator knows every version long before, and the rater takes one source partition after the other."""
    tenant = "behind"
    rater = await pipeline.start("rater")
    await pipeline.start("sink-postgres")
    await pipeline.start("aggregator")
    await prepare(pipeline, tenant)
    await rater.stop()
    await change_while_events_come(pipeline, tenant, topics.partitions_of(topics.RAW))
    await wait_until_live(pipeline)
    await pipeline.start("rater")
    await pipeline.wait("all are priced", partial(_are_priced, pipeline, tenant, 13))
    await judge(pipeline, tenant)


def assert_named(places: dict[tuple[str, int, int], bool]) -> None:
    """By an event where one of the version's time reached the level; one source partition was used."""
    assert places[STAYS, 1, 50] and places[STAYS, 2, 100] and places[STAYS, 3, 60]
    assert places[GOES, 1, 100] and places[COMES, 1, 100]
    assert not (places[STAYS, 2, 50] or places[STAYS, 3, 40] or places[COMES, 1, 50] or places[COMES, 3, 50])


async def judge(pipeline: Pipeline, tenant: str) -> dict[tuple[str, int, int], bool]:
    """Compares the tenant's alerts, on the topic and in Postgres, with the model.

    -> whether an event is named, by (budget, version, percent).
    """
    await wait_until_live(pipeline)
    live = await _live(pipeline, tenant)
    wanted: dict[str, Any] = {}
    histories = await _histories(pipeline, tenant)
    for history in histories.values():
        for (plan, changed, is_removed), (_, until, _) in zip(history, [*history[1:], (None, None, None)], strict=True):
            if not is_removed:
                found = live.alerts_in_time(plan, changed, until)
                wanted |= {name: entry and place_of(entry) for name, (_, entry) in found.items()}
    alerts = await _alerts(pipeline, tenant)
    by_id: dict[str, set[Any]] = defaultdict(set)
    for alert in alerts:
        place = alert.data.place
        by_id[alert.id].add(place and (place.source_id, place.source_partition, place.position))
    assert {(alert.data.budget, alert.data.version, alert.data.percent) for alert in alerts} == LEVELS
    assert dict(by_id) == {name: {place} for name, place in wanted.items()}

    async def are_stored() -> bool:
        return {str(row["alert_id"]) for row in await _stored(pipeline, tenant)} >= wanted.keys()

    await pipeline.wait("the alerts are stored", are_stored)
    assert sorted(str(row["alert_id"]) for row in await _stored(pipeline, tenant)) == sorted(wanted)
    return {
        (alert.data.budget, alert.data.version, alert.data.percent): alert.data.place is not None for alert in alerts
    }


async def _live(pipeline: Pipeline, tenant: str) -> Live:
    log: list[LogRecord] = []
    for record in await topic_log.read(client_options(pipeline.settings), topics.PRICED):
        if record.partition == topics.partition_of(tenant):
            log.append(log_record(record.value or b"", is_coverage=bool(record.headers)))
    return Live(log)


async def _are_priced(pipeline: Pipeline, tenant: str, count: int) -> bool:
    return len((await _live(pipeline, tenant)).entries[tenant]) == count


async def _alerts(pipeline: Pipeline, tenant: str) -> list[Alert]:
    records = await topic_log.read(client_options(pipeline.settings), topics.ALERTS)
    return [alert for record in records if (alert := decode_alert(record.value or b"")).tenant == tenant]


async def _histories(pipeline: Pipeline, tenant: str) -> dict[str, list[tuple[Plan, int, bool]]]:
    """name -> (version, ms at which it was made, whether it is a removal), from Postgres."""
    found: dict[str, list[tuple[Plan, int, bool]]] = defaultdict(list)
    for row in await _fetch(
        pipeline,
        "SELECT *, floor(extract(epoch FROM created_at) * 1000)::bigint AS made_ms FROM meter.budgets "
        "WHERE tenant = $1 ORDER BY name, version",
        tenant,
    ):
        plan = Plan(
            tenant=tenant, name=row["name"], version=row["version"], currency="USD", amount=int(row["amount"] * PICO),
            period=row["period"], time_zone=row["time_zone"], week_start=1, anchor_day=1,
            percents=tuple(row["thresholds"]),
        )  # fmt: skip
        found[plan.name].append((plan, row["made_ms"], row["removed"]))
    return found


async def _stored(pipeline: Pipeline, tenant: str) -> list[asyncpg.Record]:
    return await _fetch(pipeline, "SELECT alert_id FROM meter.alerts WHERE tenant = $1", tenant)


async def _fetch(pipeline: Pipeline, query: str, *values: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(pipeline.settings.postgres_admin_dsn.get_secret_value())
    try:
        rows: list[asyncpg.Record] = await connection.fetch(query, *values)
        return rows
    finally:
        await connection.close()
