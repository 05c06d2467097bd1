"""OpenRouter: OpenAI's or Anthropic's bodies with what was charged. With a key of one's own that is its fee alone."""

from __future__ import annotations

from decimal import Decimal

from meterstream.processors.rating.vendors import anthropic, openai
from meterstream.processors.rating.vendors.reading import (
    Json,
    Reading,
    answer_of,
    member,
    money,
    plain,
)


def read(body: Json) -> Reading | None:
    """None: another vendor's body."""
    _, usage = answer_of(body)
    if "cost" not in usage:
        return None
    reading = openai.read(body) or anthropic.read(body)
    if reading is None:
        return None
    amount = _cost(usage)
    return reading._replace(
        reported_amount=None if amount is None else plain(amount),
        reported_currency="" if amount is None else "USD",
    )


def _cost(usage: Json) -> Decimal | None:
    """What the call cost; with a key of one's own, what the vendor behind takes and the fee. None: nobody says."""
    fee = money(usage, "cost")
    if usage.get("is_byok") is not True or fee is None:
        return fee
    upstream = money(member(usage, "cost_details"), "upstream_inference_cost")
    return None if upstream is None else upstream + fee
