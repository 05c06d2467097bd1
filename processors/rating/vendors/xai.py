"""xAI: OpenAI's bodies with its own counts of tools and sources, and with what was charged, in 1e-10 dollars."""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors import openai
from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    answer_of,
    canonical,
    count,
    member,
    money,
    plain,
)

_TICKS: Final = 10**10
_MARKS: Final = ("cost_in_usd_ticks", "num_sources_used", "server_side_tool_usage_details")
_TOOLS: Final = {
    "web_searches": ("web_search_calls", "x_search_calls"),
    "file_searches": ("file_search_calls", "document_search_calls"),
    "code_executions": ("code_interpreter_calls",),
}


def read(body: Json) -> Reading | None:
    """None: another vendor's body."""
    _, usage = answer_of(body)
    if not any(mark in usage for mark in _MARKS):
        return None
    reading = openai.read(body)
    if reading is None:
        return None
    used = member(usage, "server_side_tool_usage_details")
    # A source that was read for an answer is a result beyond the search itself.
    found: dict[str, Quantity | None] = {**reading.usage, "extra_results": count(usage, "num_sources_used")}
    for unit, names in _TOOLS.items():
        if used:  # the items of the output are the same calls
            found[unit] = sum(count(used, name) or 0 for name in names)
    amount = money(usage, "cost_in_usd_ticks", _TICKS)
    return reading._replace(
        usage=canonical(found),
        reported_amount=None if amount is None else plain(amount),
        reported_currency="" if amount is None else "USD",
    )
