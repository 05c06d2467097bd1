"""xAI: OpenAI's bodies with its own counts of tools and sources, and with what was charged, in 1e-10 dollars."""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors import openai
from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    Unreadable,
    answer_of,
    canonical,
    count,
    member,
    money,
    plain,
)

_TICKS: Final = 10**10
_MARKS: Final = (
    *("cost_in_usd_ticks", "num_sources_used"),
    *("num_server_side_tools_used", "server_side_tool_usage_details"),
)
_TOOLS: Final = {
    "web_search_calls": "web_searches",
    "x_search_calls": "web_searches",
    "file_search_calls": "file_searches",
    "document_search_calls": "file_searches",
    "code_interpreter_calls": "code_executions",
}
_UNITS: Final = frozenset(_TOOLS.values())
_FREE: Final = frozenset({"mcp_calls", "view_image_calls", "view_x_video_calls"})
"""They cost their tokens alone."""


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
    for name in used:
        found[_TOOLS.get(name, "requests")] = 0  # the items of the output are the same calls
    for name in used:
        if name not in _FREE:  # what is not known counts as requests, which have no price until somebody says one
            unit = _TOOLS.get(name, "requests")
            found[unit] = (found[unit] or 0) + (count(used, name) or 0)
    told, known = count(usage, "num_server_side_tools_used") or 0, sum(found.get(unit) or 0 for unit in _UNITS)
    if not used and told > known:
        raise Unreadable(f"{told} tools were used, but only {known} are said to be of a kind")
    amount = money(usage, "cost_in_usd_ticks", _TICKS)
    return reading._replace(
        usage=canonical(found),
        reported_amount=None if amount is None else plain(amount),
        reported_currency="" if amount is None else "USD",
    )
