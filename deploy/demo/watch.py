"""What a demo waits for: the aggregator's budgets, its alerts, and whether anything moves at all."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from meterstream.deploy.connections import reader
from meterstream.deploy.demo import budgets as demo_budgets
from meterstream.deploy.demo.budgets import Alerted, Budgeted
from meterstream.deploy.demo.results import Sent
from meterstream.deploy.kafka import client_options
from meterstream.deploy.live import alerts, top
from meterstream.deploy.live.follow import Follower
from meterstream.deploy.live.view import Live
from meterstream.deploy.stack import logs as stack_logs
from meterstream.processors.rating.service import GROUP as RATER_GROUP
from meterstream.schema.alert import Alert
from meterstream.schema.budget import Budget
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.settings import Settings
from meterstream.schema.topics import AGGREGATES, ALERTS, PRICED, source_ids

STALLED_AFTER_S: Final = 60.0
POLL_S: Final = 0.1
LOG_LINES: Final = 8
ROLES: Final = ("rater", "aggregator", "sink-postgres")


class StallWatch:
    """Ends a demo in which nothing moves, with what the logs say."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._last = ""
        self._moved_at = time.monotonic()

    def look(self, state: str) -> None:
        """Raises MeterstreamError when `state`, for people, has been the same for STALLED_AFTER_S."""
        if state != self._last:
            self._last, self._moved_at = state, time.monotonic()
        if time.monotonic() - self._moved_at > STALLED_AFTER_S:
            logs = stack_logs.find(self._home, None)
            tails = "".join(
                f"\n==> {logs[name]} <==\n" + "\n".join(stack_logs.last_lines(logs[name], LOG_LINES))
                for name in (*ROLES, "kafka", "postgres")
                if name in logs
            )
            raise MeterstreamError(
                f"nothing has moved for {STALLED_AFTER_S:.0f} s: {state}. The ends of the logs:{tails}"
            )


class LiveWatch:
    """Follows the aggregator. Use as `async with`; every wait ends with MeterstreamError where nothing moves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._live = Live()
        self._follower = Follower(settings, AGGREGATES)
        self._admin = AIOKafkaAdminClient(**client_options(settings))
        self._cleanup = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._cleanup.enter_async_context(self._follower)
        self._cleanup.push_async_callback(self._admin.close)
        await self._admin.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._cleanup.aclose()

    async def wait_for_the_rest(self) -> None:
        """Until everything that an earlier run has left behind is rated and counted."""
        published = {name: await self._follower.ends(name) for name in source_ids()}

        async def is_rated() -> bool:
            committed = await self._committed()
            return all(
                committed.get((name, number), 0) >= end
                for name, ends in published.items()
                for number, end in ends.items()
            )

        await self._until(is_rated, "an earlier run's records are not rated")
        await self._wait_for_counted(await self._follower.ends(PRICED))

    async def wait_for_budgets(self, made: Sequence[Budget]) -> None:
        """Until the aggregator counts these."""

        async def are_counted() -> bool:
            return all(self._live.budget(budget.tenant, budget.name) for budget in made)

        await self._until(are_counted, "the aggregator does not know the budgets")

    async def alerted(self, made: Sequence[Budget], sent: Sent) -> Alerted:
        """What the budgets came to, and what they raised, once all of `sent` is in Postgres and counted."""
        await self._wait_for_counted(await self._follower.ends(PRICED))
        raised = await self._raised({(budget.tenant, budget.name) for budget in made})
        await self._wait_for_stored(raised)
        found: list[Budgeted] = []
        predicted, differences = 0, list[str]()
        async with reader(self._settings) as connection:
            for budget in made:
                state = self._live.budget(budget.tenant, budget.name)
                assert state is not None
                own = [alert for alert in raised if (alert.tenant, alert.data.budget) == (budget.tenant, budget.name)]
                charges = await demo_budgets.charges(connection, budget, sent.source, sent.occurred_since)
                predicted += len(demo_budgets.predicted(budget, charges)[0])
                differences += demo_budgets.compare(budget, charges, state, own)
                found.append(Budgeted(budget, state, tuple(own)))
        return Alerted(tuple(found), predicted, tuple(differences))

    async def _committed(self) -> Mapping[tuple[str, int], int]:
        try:
            found = await self._admin.list_consumer_group_offsets(RATER_GROUP)
        except KafkaError:  # on a new broker the first group is a moment in the making
            return {}
        return {(at.topic, at.partition): offset.offset for at, offset in found.items()}

    async def _wait_for_counted(self, ends: Mapping[int, int]) -> None:
        async def are_counted() -> bool:
            known = self._live.progress
            return all(end == 0 or (number in known and known[number].offset >= end) for number, end in ends.items())

        await self._until(are_counted, "the aggregator has not come to the end of usage.priced")

    async def _raised(self, names: set[tuple[str, str]]) -> list[Alert]:
        """All alerts of these budgets that the topic holds: they were sent before what says that all is counted."""
        once, found = alerts.Once(), list[Alert]()
        async with Follower(self._settings, ALERTS) as follower:
            while not follower.has_caught_up:
                found += [alert async for alert in alerts.read_on(follower, once)]
        return [alert for alert in found if (alert.tenant, alert.data.budget) in names]

    async def _wait_for_stored(self, raised: Sequence[Alert]) -> None:
        ids = [alert.id for alert in raised]
        async with reader(self._settings) as connection:

            async def are_stored() -> bool:
                query = "SELECT count(*) FROM meter.alerts WHERE alert_id = ANY($1::uuid[])"
                return bool(await connection.fetchval(query, ids) == len(ids))

            await self._until(are_stored, "the alerts are not in Postgres")

    async def _until(self, is_so: Callable[[], Awaitable[bool]], else_said: str) -> None:
        watch = StallWatch(self._settings.home)
        while not await is_so():
            await top.read_on(self._follower, self._live, POLL_S)
            offsets = sum(progress.offset for progress in self._live.progress.values())
            watch.look(f"{else_said} ({offsets} records counted)")
