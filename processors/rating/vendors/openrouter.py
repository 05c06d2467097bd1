"""OpenRouter: OpenAI's or Anthropic's bodies with what was charged. With a key of one's own that is its fee alone."""

from __future__ import annotations

from meterstream.processors.rating.vendors import anthropic, openai
from meterstream.processors.rating.vendors.reading import Json, Reading, answer_of, canonical, count, member, reported


def read(body: Json) -> Reading | None:
    """None: another vendor's body."""
    _, usage = answer_of(body)
    if "cost" not in usage:
        return None
    reading = openai.read(body) or anthropic.read(body)
    if reading is None:
        return None
    searches = count(member(usage, "server_tool_use"), "web_search_requests")
    amount = reported(usage, "cost")
    return reading._replace(
        usage=canonical({**reading.usage, "web_searches": searches}) if searches else reading.usage,
        reported_amount=amount,
        reported_currency="" if amount is None else "USD",
    )
