"""Alerts into their table: one row an id, however often it is sent."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from uuid import UUID

from meterstream.schema.alert import Alert
from meterstream.schema.money import parse_amount
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection

log = logging.getLogger(__name__)

_NO_PLACE: Final = (None,) * 5


async def add(connection: Connection, alerts: Iterable[Alert]) -> int:
    """Stores those whose ids are not there yet; returns how many. May block; raises asyncpg.PostgresError.

    The same id with another content: the first stays, and the log names it.
    """
    rows: dict[UUID, tuple[object, ...]] = {}
    for alert in alerts:
        row = _row(alert)
        if rows.setdefault(UUID(alert.id), row) != row:
            _warn(alert.id)
    if not rows:
        return 0
    columns = zip(*rows.values(), strict=True)
    found = await connection.fetch(query("add_alerts"), *(list(column) for column in columns))
    for alert_id, is_other in found:
        if is_other:
            _warn(str(UUID(bytes=alert_id)))
    return len(rows) - len(found)


def _warn(alert_id: str) -> None:
    log.warning("alert %s came again with another content: the first stays", alert_id)


def _row(alert: Alert) -> tuple[object, ...]:
    data, place = alert.data, alert.data.place
    return (
        UUID(alert.id).bytes,
        alert.time,
        data.rule,
        data.tenant,
        data.budget,
        data.version,
        data.currency,
        parse_amount(data.amount),
        data.percent,
        parse_amount(data.threshold),
        parse_amount(data.spent),
        data.period,
        data.time_zone,
        data.period_start,
        data.period_end,
        data.provisional,
        data.project_id,
        data.user_id,
        data.api_key_id,
        data.provider,
        data.model,
        *(
            _NO_PLACE
            if place is None
            else (place.event_id, place.source, place.source_id, place.source_partition, place.position)
        ),
    )
