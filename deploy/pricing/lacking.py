"""What events of late were stored without a price, and what each kind of them lacks. For `meterstream doctor`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final

from meterstream.deploy.connections import Connection
from meterstream.deploy.pricing.explain import Books, Explained, explain_row
from meterstream.processors.rating.explain import Explanation

DAYS: Final = 7
MODELS_MAX: Final = 3
REASONS_MAX: Final = 3
SAMPLE_MAX: Final = 50
"""Rows of one tenant, day and model that are computed again."""

# The rollup is small and says where to look; it counts unmetered events too, of which the ledger has an index.
_MODELS: Final = """
    WITH lacking AS (
        SELECT provider, model, sum(unpriced_events) AS events
        FROM meter.usage_daily WHERE unpriced_events > 0 AND day > $1 GROUP BY 1, 2
    ), unmetered AS (
        SELECT provider, model, count(*) AS events FROM meter.ledger
        WHERE pricing = 'unmetered' AND occurred_at >= $2 GROUP BY 1, 2
    )
    SELECT l.provider, l.model, l.events - coalesce(u.events, 0) AS events
    FROM lacking l LEFT JOIN unmetered u USING (provider, model)
    WHERE l.events > coalesce(u.events, 0) ORDER BY 3 DESC LIMIT $3
"""
_WHERE: Final = """
    SELECT tenant, day FROM meter.usage_daily
    WHERE provider = $1 AND model = $2 AND unpriced_events > 0 AND day > $3
    GROUP BY 1, 2 ORDER BY sum(unpriced_events) DESC, day DESC
"""
_ROWS: Final = """
    SELECT l.*, NULL::timestamptz AS known_from FROM meter.ledger l
    WHERE tenant = $1 AND occurred_at >= $2 AND occurred_at < $3 AND provider = $4 AND model = $5
      AND pricing = 'unpriced'
    ORDER BY occurred_at DESC LIMIT $6
"""
_NEWEST: Final = "SELECT coalesce(max(revision), 0) FROM meter.price_revisions"


@dataclass(frozen=True, slots=True)
class Lacking:
    """`events` of a model are unpriced, for `why`, and where it `has_others` for other reasons, too, which follow.

    `fix`: what to do, empty: nothing.
    """

    provider: str
    model: str
    events: int
    why: str
    fix: str
    has_others: bool


async def lacking(connection: Connection) -> list[Lacking]:
    """The models with the most unpriced events of the last DAYS days, with what their calls lack by the prices of now.

    Blocks on the database. Unmetered events are none of them.
    """
    today = datetime.now(UTC).date()
    since = today - timedelta(days=DAYS)
    begin = datetime.combine(since + timedelta(days=1), time(), UTC)
    revision = await connection.fetchval(_NEWEST)
    books = Books(connection)
    found: list[Lacking] = []
    for row in await connection.fetch(_MODELS, since, begin, MODELS_MAX):
        reasons: dict[str, str] = {}
        for place in await connection.fetch(_WHERE, row["provider"], row["model"], since):
            day = datetime.combine(place["day"], time(), UTC)
            key = place["tenant"], day, day + timedelta(days=1), row["provider"], row["model"], SAMPLE_MAX
            for record in await connection.fetch(_ROWS, *key):
                explained = await explain_row(record, books, revision)
                assert explained.recomputed is not None
                reasons.setdefault(*_reason(explained, explained.recomputed))
            if reasons:
                break
        of_model = row["provider"], row["model"], int(row["events"])
        found += [Lacking(*of_model, why, fix, len(reasons) > 1) for why, fix in list(reasons.items())[:REASONS_MAX]]
    return found


def _reason(event: Explained, by_now: Explanation) -> tuple[str, str]:
    """(why it has no price, what to do)."""
    if by_now.amount_pico is not None:
        return "it has a price by now, which later events are charged; these stay as they are", ""
    if by_now.cause == "other":
        return by_now.why, _command("explain", event.event_id, tenant=event.tenant)
    if by_now.cause == "region" and not event.context.get("region"):
        return by_now.why, "let its events say their region; docs/prices.md"
    tier = event.context.get("service_tier", "") if by_now.cause == "tier" else ""
    region = event.context.get("region", "") if by_now.cause == "region" else ""
    units = by_now.lacking if by_now.cause != "tier" else tuple(by_now.usage)
    asked = {"provider": event.provider, "model": event.model, "service-tier": tier, "region": region}
    given = {"unit": units[0]} if len(units) == 1 else {}
    also = f" for each of {', '.join(units)}" if len(units) > 1 else ""
    since = ", valid from before then" if by_now.cause == "begins" else ""
    name = "let its events say the provider by the name that prices have, or " if by_now.cause == "provider" else ""
    return by_now.why, f"{name}{_command('price add', **asked, **given)} ...{also}{since}; docs/prices.md"


def _command(name: str, *arguments: str, **options: str) -> str:
    given = [word for option, value in options.items() if value for word in (f"--{option}", value)]
    return f"meterstream {name} {shlex.join([*arguments, *given])}"
