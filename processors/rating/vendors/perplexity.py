"""Perplexity: OpenAI's layouts with searches, the fee of a request and a cost; citations and thinking come on top."""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors.openai import chat, responses
from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    answer_of,
    canonical,
    count,
    member,
    money,
    name_of,
    reported,
)

_MARKS: Final = ("citation_tokens", "num_search_queries", "search_context_size", "tool_calls_details")
_CALLS: Final = {"search_web": "web_searches", "fetch_url": "web_requests"}


def read(body: Json) -> Reading | None:
    """None: another vendor's body."""
    answer, usage = answer_of(body)
    if not isinstance(usage.get("cost"), dict) and not any(mark in usage for mark in _MARKS):
        return None
    model = name_of(answer, "model")
    cost = member(usage, "cost")
    if "prompt_tokens" in usage:
        quantities = _searched(usage, model, cost)
    elif "input_tokens" in usage:
        quantities = {**responses(usage), **_called(usage)}
    else:
        return None
    amount = reported(cost, "total_cost")
    return Reading(
        canonical(quantities), model, reported_amount=amount, reported_currency="" if amount is None else "USD"
    )


def _searched(usage: Json, model: str, cost: Json) -> dict[str, Quantity | None]:
    thought, cited = count(usage, "reasoning_tokens") or 0, count(usage, "citation_tokens") or 0
    quantities = chat({**usage, "reasoning_tokens": None}, model)
    return {
        **quantities,
        "input_tokens": (quantities["input_tokens"] or 0) + cited,
        "input_tool_tokens": cited,
        "output_tokens": (quantities["output_tokens"] or 0) + thought,
        "reasoning_tokens": thought or quantities["reasoning_tokens"],
        "web_searches": count(usage, "num_search_queries"),
        "requests": 1 if money(cost, "request_cost") else None,
    }


def _called(usage: Json) -> dict[str, Quantity | None]:
    """Tools by name; one that is not known counts as requests, which have no price until somebody says one."""
    found: dict[str, Quantity | None] = {}
    calls = member(usage, "tool_calls_details")
    for name in calls:
        unit = _CALLS.get(name, "requests")
        found[unit] = (found.get(unit) or 0) + (count(member(calls, name), "invocation") or 0)
    return found
