"""Why a call has no price, where its context alone is the reason. Pure; off the common path."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from meterstream.processors.rating.book import Book
from meterstream.processors.rating.price import charge
from meterstream.processors.rating.tiers import STANDARD, tier_of

UNPRICED_REASON: Final = "unpriced_reason"
NOTES: Final = (UNPRICED_REASON,)
"""What the ledger's `attributes` say of such an event."""

Usage = Mapping[str, int | Decimal]


def lacking_tier(
    book: Book,
    tenant: str,
    provider: str,
    model: str,
    moment: datetime,
    service_tier: str,
    region: str,
    tags: Mapping[str, str],
    usage: Usage,
) -> str | None:
    """For a call that is unpriced: what to say where it has a price in the standard tier, and none in its own."""
    tier = tier_of(provider, service_tier)
    if tier == STANDARD:
        return None
    rates = book.lookup(tenant, provider, model, moment, STANDARD, region, tags)
    if rates is None or charge(usage, rates) is None:
        return None
    return f"no price names the service tier {tier!r} then; the standard one may be another: add a price for it"
