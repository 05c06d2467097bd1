"""A log that lost records before the aggregator read them. On a stack of its own: it stays incomplete."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from functools import partial

import asyncpg
import pytest

from meterstream.deploy.verify import run as whole
from meterstream.schema import topics
from meterstream.schema.aggregate import Window
from meterstream.schema.settings import Settings
from tests.background import beside
from tests.fault.changes import PICO
from tests.fault.live import (
    ends,
    newest_budgets,
    newest_windows,
    plans,
    publish_budgets,
    raised_alerts,
    wait_until_live,
)
from tests.fault.pipeline import Pipeline
from tests.fault.roles import Role

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
STOPPED = 70


async def test_a_state_goes_on_after_a_loss_only_when_asked(pipeline: Pipeline) -> None:
    settings = pipeline.settings
    await publish_budgets(settings)
    await _store_budgets(settings)
    rater = await pipeline.start("rater")
    await pipeline.start("sink-postgres")
    first = await pipeline.start("aggregator")
    async with beside(pipeline.publish):
        await pipeline.wait("it is live", partial(_has_said, first, "live: partitions"))
        await wait_until_live(pipeline)
        await pipeline.wait("levels are reached", partial(_has_raised, settings, 50))
        await first.stop()
        seen = await ends(settings, topics.PRICED)

        async def has_grown() -> bool:
            now = await ends(settings, topics.PRICED)
            return all(now[number] > seen[number] + 1 for number in seen)

        await pipeline.wait("more is priced in every partition", has_grown)
    await pipeline.wait_until_quiet()
    await rater.stop()
    before = {_key(window): window for window in await newest_windows(settings)}
    raised = [alert.id for alert in await raised_alerts(settings)]
    assert before and len(raised) == len(set(raised))
    now = await ends(settings, topics.PRICED)
    await pipeline.truncate(topics.PRICED, {number: end - 1 for number, end in now.items()})
    refused = await pipeline.start("aggregator")
    await pipeline.wait("it stops", partial(_has_exited, refused, STOPPED))
    named = _named_states(refused)
    assert len(named.split(",")) == len(now), "all of them at once"
    await refused.end()

    accepts = {"aggregator_bootstrap": named}
    asked = await pipeline.start("aggregator", settings=accepts)
    await wait_until_live(pipeline)
    kept = {_key(window): window for window in await newest_windows(settings)}
    for key, window in kept.items():
        assert window.partial or (window.settled and window.totals == before[key].totals)
        if key in before:
            assert _events(window) >= _events(before[key]), "what was counted before the loss is counted still"
    assert all(state.provisional for state in await newest_budgets(settings))
    await asked.stop()
    assert asked.exits == [0]

    again = await pipeline.start("aggregator", settings=accepts)  # it has stored where it went on
    rater = await pipeline.start("rater")
    async with beside(pipeline.publish):
        await pipeline.wait("it is live", partial(_has_said, again, "live: partitions"))
        await pipeline.wait("levels are reached", partial(_has_raised, settings, len(raised) + 20))
        await wait_until_live(pipeline)
        assert "goes on at offset" not in again.said()
    await pipeline.wait_until_quiet()
    await wait_until_live(pipeline)
    ids = [alert.id for alert in await raised_alerts(settings)]
    assert len(ids) == len(set(ids)), "what was reached before the loss is not raised again"
    result = await whole.verify(settings, is_live=True)
    assert result.live is not None and result.live.is_good and result.live.budgets_bounded, result.live
    assert result.live.windows_left_out["partial"]

    async with beside(pipeline.publish):
        await again.stop()
        assert again.exits == [0]
        seen = await ends(settings, topics.PRICED)
        await pipeline.wait("more is priced in every partition", has_grown)
    await rater.stop()
    now = await ends(settings, topics.PRICED)
    await pipeline.truncate(topics.PRICED, {number: end - 1 for number, end in now.items()})
    other_loss = await pipeline.start("aggregator", settings=accepts)
    await pipeline.wait("it stops", partial(_has_exited, other_loss, STOPPED))
    assert not set(_named_states(other_loss).split(",")) & set(named.split(",")), "what was accepted was another loss"


async def _store_budgets(settings: Settings) -> None:
    """Where `verify` looks for them."""
    assert settings.postgres_admin_dsn is not None
    connection = await asyncpg.connect(settings.postgres_admin_dsn.get_secret_value())
    try:
        await connection.executemany(
            "INSERT INTO meter.budgets (tenant, name, version, amount, currency, period, time_zone, thresholds,"
            " provider, model) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            [
                (plan.tenant, plan.name, plan.version, Decimal(plan.amount) / PICO, plan.currency, plan.period,
                 plan.time_zone, list(plan.percents), plan.provider, plan.model)
                for plan in plans()
            ],
        )  # fmt: skip
    finally:
        await connection.close()


def _key(window: Window) -> tuple[str, str, datetime]:
    return window.tenant, window.window, window.start


def _events(window: Window) -> int:
    return sum(total.events for total in window.totals)


async def _has_raised(settings: Settings, count: int) -> bool:
    return len(await raised_alerts(settings)) >= count


def _named_states(role: Role) -> str:
    """What it says that a person may accept."""
    found = re.search(r"METERSTREAM_AGGREGATOR_BOOTSTRAP=(\S+)", role.said())
    assert found is not None, role.said()
    return found[1]


async def _has_exited(role: Role, code: int) -> bool:
    return code in role.exits


async def _has_said(role: Role, text: str) -> bool:
    return text in role.said()
