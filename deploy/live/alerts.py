"""Alerts that budgets raised: as they come in `usage.alerts`, and as they are kept in Postgres."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from datetime import datetime
from typing import Any, Final

import asyncpg

from meterstream.deploy.connections import reader
from meterstream.deploy.live.follow import Follower
from meterstream.schema import topics
from meterstream.schema.alert import Alert, AlertData, Place, decode_alert
from meterstream.schema.budget import SCOPE_FIELDS
from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.money import format_amount, to_pico
from meterstream.schema.settings import Settings

log = logging.getLogger(__name__)

IDS_MAX: Final = 100_000
"""So many of the newest ids are known; an alert that is sent again later than that is shown again."""
POLL_S: Final = 0.5


class Once:
    """Lets each id pass once. Bounded: of `ids_max` ids the one that was seen first is forgotten."""

    def __init__(self, ids_max: int = IDS_MAX) -> None:
        self._ids_max = ids_max
        self._seen: dict[str, None] = {}

    def is_new(self, alert_id: str) -> bool:
        """True when it has not been asked about before."""
        if alert_id in self._seen:
            return False
        self._seen[alert_id] = None
        if len(self._seen) > self._ids_max:
            del self._seen[next(iter(self._seen))]
        return True


async def read_on(follower: Follower, once: Once) -> AsyncIterator[Alert]:
    """The alerts that came within POLL_S and are new; a record that is none is logged and left out."""
    for record in await follower.read(POLL_S):
        try:
            alert = decode_alert(record.value or b"")
        except RecordUnreadable as error:
            log.warning("%s/%d, offset %d: %s", record.topic, record.partition, record.offset, error)
            continue
        if once.is_new(alert.id):
            yield alert


async def tail(
    settings: Settings, *, from_beginning: bool = False, tenant: str | None = None, budget: str | None = None
) -> AsyncGenerator[Alert, None]:
    """Every alert that fits from now on, or all that the topic holds and then on; each id once. Never ends by itself.

    `settings` need the broker's address. Raises Unreachable, UsageError.
    """
    async with Follower(settings, topics.ALERTS, from_beginning=from_beginning) as follower:
        once = Once()
        while True:
            async for alert in read_on(follower, once):
                if tenant in (None, alert.tenant) and budget in (None, alert.data.budget):
                    yield alert


async def list_alerts(
    settings: Settings,
    *,
    tenant: str | None = None,
    budget: str | None = None,
    since: datetime | None = None,
    limit: int,
) -> list[Alert]:
    """The newest `limit` that Postgres holds, in the order of time. `since`: aware, inclusive, compared with `time`.

    Blocks on the database. Raises UsageError.
    """
    async with reader(settings) as connection:
        rows = await connection.fetch(_NEWEST, tenant, since, limit, budget)
    return [_alert(row) for row in reversed(rows)]


_NEWEST: Final = """
    SELECT * FROM meter.alerts
    WHERE ($1::text IS NULL OR tenant = $1) AND ($2::timestamptz IS NULL OR alert_time >= $2)
      AND ($4::text IS NULL OR budget = $4)
    ORDER BY alert_time DESC, tenant DESC, budget DESC, percent DESC
    LIMIT $3
"""


def _alert(row: asyncpg.Record) -> Alert:
    """The same as came from the topic."""
    return Alert(
        id=str(row["alert_id"]),
        time=row["alert_time"],
        tenant=row["tenant"],
        data=AlertData(
            rule=row["rule"],
            budget=row["budget"],
            version=row["version"],
            tenant=row["tenant"],
            currency=row["currency"],
            amount=format_amount(to_pico(row["amount"])),
            percent=row["percent"],
            threshold=format_amount(to_pico(row["threshold"])),
            spent=format_amount(to_pico(row["spent"])),
            period=row["period"],
            time_zone=row["time_zone"],
            period_start=row["period_start"],
            period_end=row["period_end"],
            provisional=row["provisional"],
            **_columns(row, SCOPE_FIELDS),
            place=None if row["event_id"] is None else Place(**_columns(row, Place.__struct_fields__)),
        ),
    )


def _columns(row: asyncpg.Record, names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names}
