"""Gemini (AI Studio and Vertex): thinking and tool prompts come on top of the counts, the cache within them."""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors.reading import (
    KINDS,
    Json,
    Quantity,
    Reading,
    Unreadable,
    canonical,
    check_split,
    count,
    items,
    member,
    name_of,
    need,
    tier,
    uncached,
)

_KINDS: Final = {"AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}
"""A document is charged as the images of its pages."""
_ANSWERED: Final = ("candidatesTokenCount", "responseTokenCount")
_TRAFFIC: Final = {
    "ON_DEMAND": "standard",
    "ON_DEMAND_FLEX": "flex",
    "ON_DEMAND_PRIORITY": "priority",
    "PROVISIONED_THROUGHPUT": "provisioned",
}


def read(body: Json) -> Reading | None:
    """None: another vendor's body, or Gemini behind OpenAI's API."""
    usage = member(body, "usageMetadata") if "usageMetadata" in body else body
    if "promptTokenCount" not in usage:
        return None
    quantities = _tokens(usage)
    given = _by_kind(usage, "promptTokensDetails", "promptTokenDetails")
    cached = _by_kind(usage, "cacheTokensDetails")
    made = _by_kind(usage, "candidatesTokensDetails", "responseTokensDetails")
    check_split("prompt tokens", count(usage, "promptTokenCount"), given)
    check_split("cached tokens", count(usage, "cachedContentTokenCount"), cached)
    check_split("answered tokens", count(usage, *_ANSWERED), made)
    for kind in KINDS:
        in_cache = cached.get(kind, 0)
        quantities[f"cache_read_{kind}_tokens"] = in_cache
        quantities[f"input_{kind}_tokens"] = uncached(given.get(kind, 0), in_cache, kind)
        quantities[f"output_{kind}_tokens"] = made.get(kind, 0)
    traffic = name_of(usage, "trafficType")
    service_tier = _TRAFFIC.get(traffic, traffic) or name_of(usage, "serviceTier")
    return Reading(canonical(quantities), name_of(body, "modelVersion"), tier(service_tier))


def _tokens(usage: Json) -> dict[str, Quantity | None]:
    prompt = need(usage, "promptTokenCount")
    tool = count(usage, "toolUsePromptTokenCount") or 0
    thoughts = count(usage, "thoughtsTokenCount") or 0
    answered = count(usage, *_ANSWERED)
    total = count(usage, "totalTokenCount")
    parts = prompt + tool + thoughts + (answered or 0)
    if total is None:
        # Of what was embedded there is neither; only there is the name of the details in the singular.
        if answered is None and "promptTokenDetails" not in usage:
            raise Unreadable("neither candidatesTokenCount nor totalTokenCount is given")
    elif total != parts:
        raise Unreadable(f"totalTokenCount is {total}, but its parts are {parts}")
    return {
        "input_tokens": prompt + tool,
        "output_tokens": thoughts + (answered or 0),
        "cache_read_tokens": count(usage, "cachedContentTokenCount"),
        "input_tool_tokens": tool,
        "reasoning_tokens": thoughts,
    }


def _by_kind(usage: Json, *names: str) -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    for part in items(usage, *names):
        kind = _KINDS.get(name_of(part, "modality"), "text")
        found[kind] = found.get(kind, 0) + (count(part, "tokenCount") or 0)
    return found
