"""Hourly and daily sums of the rows that are really new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from functools import cache, lru_cache
from operator import add as plus
from typing import TYPE_CHECKING, Final, NamedTuple

from meterstream.sinks.postgres.batch import PlacedRow
from meterstream.sinks.postgres.queries import query

if TYPE_CHECKING:
    from meterstream.sinks.postgres.connection import Connection

PERIODS_CACHED_MAX: Final = 4096
SUM_MAX: Final = 2**63 - 1
"""Sums of tokens and latencies end here (bigint; ADR 0011). One batch alone never comes near: at most some 100,300 rows
(`sink_batch_rows_max` and a pack) of 10^12 (`QUANTITY_MAX`)."""


class Rollup(NamedTuple):
    """What the queries about either rollup put in: they are the same but for these names."""

    name: str
    """The table's."""
    period: str
    """The column of the period's beginning, after the tenant in the key."""
    labels: tuple[str, ...]
    """The key's other columns."""
    beginning: str
    """SQL for the beginning of the period that holds {at}."""


_LABELS: Final = ("currency", "provider", "model", "operation", "project_id")
HOURLY: Final = Rollup("rollup_hourly", "hour", _LABELS, "date_trunc('hour', {at}, 'UTC')")
DAILY: Final = Rollup("rollup_daily", "day", (*_LABELS, "user_id", "api_key_id"), "({at} AT TIME ZONE 'UTC')::date")

HourlyKey = tuple[str, int, str, str, str, str, str, int]
"""tenant, ordinal of the day, currency, provider, model, operation, project_id, hour of the day."""
DailyKey = tuple[str, int, str, str, str, str, str, str, str]
"""tenant, ordinal of the day, currency, provider, model, operation, project_id, user_id, api_key_id."""
Sums = Sequence[int]
"""events, errors, unpriced_events, the five token counts, latency_ms_sum, latency_events, amount (1e-12)."""


def deltas(rows: Iterable[PlacedRow]) -> tuple[dict[HourlyKey, Sums], dict[DailyKey, Sums]]:
    """Pure: what the rows add to the rollups, by key; the days in order of their keys, the hours nearly so."""
    # By both keys at once first, since most rows meet a key that is there already; the rollups from these sums.
    finest: dict[tuple[str, int, str, str, str, str, str, str, str, int], list[int]] = {}
    for _, _, row in rows:
        at = row.occurred_at
        if at.tzinfo is not UTC:
            at = at.astimezone(UTC)
        key = (
            row.tenant,
            at.toordinal(),
            row.currency,
            row.provider,
            row.model,
            row.operation,
            row.project_id,
            row.user_id,
            row.api_key_id,
            at.hour,
        )
        sums = finest.get(key)
        if sums is None:
            sums = finest[key] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        sums[0] += 1
        if row.status != "ok":
            sums[1] += 1
        sums[3] += row.input_tokens
        sums[4] += row.output_tokens
        sums[5] += row.cache_read_tokens
        sums[6] += row.cache_write_tokens
        sums[7] += row.reasoning_tokens
        if row.latency_ms is not None:
            sums[8] += row.latency_ms
            sums[9] += 1
        if row.amount_pico is None:
            sums[2] += 1
        else:
            sums[10] += row.amount_pico
    hourly: dict[HourlyKey, Sums] = {}
    daily: dict[DailyKey, Sums] = {}
    for key in sorted(finest):  # once, and what follows is sorted or cheap to sort
        sums = finest[key]
        hour_key, day_key = key[:7] + key[9:], key[:9]
        known = hourly.get(hour_key)
        hourly[hour_key] = sums if known is None else tuple(map(plus, known, sums))
        known = daily.get(day_key)
        daily[day_key] = sums if known is None else tuple(map(plus, known, sums))
    return hourly, daily


@cache
def query_of(rollup: Rollup, name: str) -> str:
    """The text of `<name>.sql` for one rollup."""
    return query(name).format(
        rollup=rollup.name,
        period=rollup.period,
        labels=", ".join(rollup.labels),
        of_event=rollup.beginning.format(at="occurred_at"),
        since=rollup.beginning.format(at="$1"),
        most=SUM_MAX,
    )


async def open_session(connection: Connection) -> None:
    """Once a session, before `add`: makes the tables that deltas are copied to."""
    for rollup in (HOURLY, DAILY):
        await connection.execute(query_of(rollup, "make_delta_table"))


async def add(connection: Connection, rows: Iterable[PlacedRow]) -> None:
    """Adds the rows' deltas, keys in one order for all writers. May block on another writer's keys.

    Raises asyncpg.CheckViolationError where a leaf is missing.
    """
    hourly, daily = deltas(rows)
    if hourly:
        by_hour = [(key[0], _hour(key[1], key[7]), *key[2:7], *hourly[key]) for key in sorted(hourly)]
        by_day = [(key[0], _day(key[1]), *key[2:], *sums) for key, sums in daily.items()]
        await _add(connection, HOURLY, by_hour)
        await _add(connection, DAILY, by_day)


async def _add(connection: Connection, rollup: Rollup, records: list[tuple[object, ...]]) -> None:
    # COPY and one statement: arrays as parameters would cost the client twice as much.
    await connection.copy_records_to_table(f"{rollup.name}_deltas", schema_name="pg_temp", records=records)
    await connection.execute(query_of(rollup, "add_rollup"))


@lru_cache(maxsize=PERIODS_CACHED_MAX)
def _day(ordinal: int) -> date:
    return date.fromordinal(ordinal)


@lru_cache(maxsize=PERIODS_CACHED_MAX)
def _hour(ordinal: int, hour: int) -> datetime:
    return datetime.fromordinal(ordinal).replace(hour=hour, tzinfo=UTC)
