"""Gemini (AI Studio and Vertex): thinking and tool prompts come on top of the counts, the cache within them.

What it looked up is in the candidates: searches are paid by the query, up to Gemini 2.5 by the prompt.
"""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors.reading import (
    KINDS,
    Json,
    Quantity,
    Reading,
    Unreadable,
    cached_by_kind,
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


_PAID_BY_PROMPT: Final = ("gemini-1", "gemini-2")
_QUERIES: Final = ("webSearchQueries", "imageSearchQueries")


def read(body: Json) -> Reading | None:
    """None: another vendor's body, or Gemini behind OpenAI's API."""
    is_whole = body.get("usageMetadata") is not None  # only Google has a member of this name
    usage = member(body, "usageMetadata") if is_whole else body
    if "promptTokenCount" not in usage and not is_whole:
        return None
    quantities = _tokens(usage)
    given = _by_kind(usage, "promptTokensDetails", "promptTokenDetails")
    cached = _by_kind(usage, "cacheTokensDetails")
    made = _by_kind(usage, "candidatesTokensDetails", "responseTokensDetails")
    handed = _by_kind(usage, "toolUsePromptTokensDetails")
    check_split("tool prompt tokens", count(usage, "toolUsePromptTokenCount"), handed)
    prompt, hit = need(usage, "promptTokenCount"), count(usage, "cachedContentTokenCount")
    check_split("prompt tokens", prompt, given)
    check_split("cached tokens", hit, cached)
    check_split("answered tokens", count(usage, *_ANSWERED), made)
    if not cached:
        cached = cached_by_kind(prompt, given, hit)
    for kind in KINDS:
        in_cache = cached.get(kind, 0)
        quantities[f"cache_read_{kind}_tokens"] = in_cache
        # A part of a total has one unit: what a tool handed over in sound or pictures is paid as these.
        from_tool = handed.get(kind, 0)
        quantities[f"input_{kind}_tokens"] = uncached(given.get(kind, 0), in_cache, kind) + from_tool
        quantities["input_tool_tokens"] = (quantities["input_tool_tokens"] or 0) - from_tool
        quantities[f"output_{kind}_tokens"] = made.get(kind, 0)
    traffic = name_of(usage, "trafficType")
    service_tier = _TRAFFIC.get(traffic, traffic) or name_of(usage, "serviceTier")
    model = name_of(body, "modelVersion")
    return Reading(canonical({**quantities, **_looked_up(body, model)}), model, tier(service_tier))


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


def _looked_up(body: Json, model: str) -> dict[str, Quantity | None]:
    """What Google Search and Maps were asked. Empty queries and repetitions are not paid; Maps is by the prompt."""
    queries: Quantity = 0
    has_maps = False
    for candidate in items(body, "candidates"):
        grounding = member(candidate, "groundingMetadata")
        for name in _QUERIES:
            queries += _asked(grounding, name)
        has_maps = has_maps or any(chunk.get("maps") is not None for chunk in items(grounding, "groundingChunks"))
    if model.removeprefix("models/").startswith(_PAID_BY_PROMPT):
        queries = min(queries, 1)
    return {"web_searches": queries, "search_units": int(has_maps and not queries)}


def _asked(grounding: Json, name: str) -> Quantity:
    """Queries as the answer has them, or their number in their place: a client keeps no texts."""
    value = grounding.get(name)
    if not isinstance(value, list):
        return count(grounding, name) or 0
    if not all(isinstance(query, str) for query in value):
        raise Unreadable(f"{name} holds something else than texts")
    return len(set(value) - {""})


def _by_kind(usage: Json, *names: str) -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    for part in items(usage, *names):
        kind = _KINDS.get(name_of(part, "modality"), "text")
        found[kind] = found.get(kind, 0) + (count(part, "tokenCount") or 0)
    return found
