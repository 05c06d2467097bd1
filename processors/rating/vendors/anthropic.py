"""Anthropic messages. `input_tokens` leaves out what was read from or written to a cache: they are added here.

`iterations` lists the rounds of one answer. The totals hold those of type `message` at most, not a compaction
and not an advisor; an advisor of another model is counted apart, because this model's prices do not hold for it.
Each round is paid, so where the totals say less than the rounds (as of the input, with an advisor), the rounds count.
"""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    Unreadable,
    answer_of,
    canonical,
    count,
    items,
    member,
    name_of,
    need,
    tier,
)

_MARKS: Final = (
    "cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "iterations", "server_tool_use",
    "service_tier", "speed", "inference_geo",
)  # fmt: skip
_OF_A_ROUND: Final = (
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("cache_write_5m_tokens", "cache_write_1h_tokens"),
)
_ANYWHERE: Final = frozenset({"", "global", "not_available"})
_OTHERS: Final = ("prompt_tokens", "input_tokens_details")


def read(body: Json) -> Reading | None:
    """None: another vendor's body."""
    _, usage = answer_of(body)
    if not is_shape_of(usage):
        return None
    model = name_of(body, "model")
    quantities = _round(usage)
    quantities["reasoning_tokens"] = count(member(usage, "output_tokens_details"), "thinking_tokens") or 0
    rounds = items(usage, "iterations")
    quantities.update(_at_least(quantities, [_round(one) for one in rounds if one.get("type") == "message"]))
    for iteration in rounds:
        if iteration.get("type") == "message":
            continue
        more = _round(iteration)
        if name_of(iteration, "model") not in ("", model):
            more = {f"other_model_{unit}": more[unit] for unit in ("input_tokens", "output_tokens")}
        for unit, quantity in more.items():
            quantities[unit] = quantities.get(unit, 0) + quantity
    # Fetching a page and running code cost nothing by the call.
    quantities["web_searches"] = count(member(usage, "server_tool_use"), "web_search_requests") or 0
    return Reading(canonical(quantities), model, _tier(usage), tells_batches=True)


def _at_least(totals: dict[str, Quantity], rounds: list[dict[str, Quantity]]) -> dict[str, Quantity]:
    """The sums of the rounds, where there are any. Raises Unreadable where the totals hold more than they."""
    sums = {unit: sum(one[unit] for one in rounds) for unit in totals if unit in _OF_A_ROUND} if rounds else {}
    for unit in _OF_A_ROUND[:4]:
        if sums and sums[unit] < totals[unit]:
            raise Unreadable(f"{unit} is {totals[unit]}, but in the rounds of the answer {sums[unit]}")
    # A round may leave out what the totals say of lifetimes.
    return {unit: quantity for unit, quantity in sums.items() if quantity}


def _tier(usage: Json) -> str:
    """The service tier; `standard-us` and the like where inference was kept in one country, which has its own price."""
    name = "fast" if name_of(usage, "speed") == "fast" else tier(name_of(usage, "service_tier"))
    where = name_of(usage, "inference_geo").lower()
    return name if where in _ANYWHERE else f"{name or 'standard'}-{where}"


def is_shape_of(usage: Json) -> bool:
    """Whether it has something that only Anthropic names so. Without any of it, nothing is added to `input_tokens`."""
    return any(mark in usage for mark in _MARKS) and not any(name in usage for name in _OTHERS)


def _round(usage: Json) -> dict[str, Quantity]:
    """The tokens of one round, inclusive."""
    cache_read = count(usage, "cache_read_input_tokens") or 0
    kept = member(usage, "cache_creation")
    for_5m = count(kept, "ephemeral_5m_input_tokens") or 0
    for_1h = count(kept, "ephemeral_1h_input_tokens") or 0
    cache_write = count(usage, "cache_creation_input_tokens")
    if cache_write is None:
        cache_write = for_5m + for_1h
    elif for_5m + for_1h not in (0, cache_write):
        raise Unreadable(f"{cache_write} tokens written to the cache, but by lifetime {for_5m} and {for_1h}")
    return {
        "input_tokens": need(usage, "input_tokens") + cache_read + cache_write,
        "output_tokens": need(usage, "output_tokens"),
        "cache_read_tokens": cache_read,
        "cache_write_tokens": cache_write,
        "cache_write_5m_tokens": for_5m,
        "cache_write_1h_tokens": for_1h,
    }
