"""Bedrock Converse: `inputTokens` leaves out the cache. The same counts come again as `*TokenCount`: never added."""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    Unreadable,
    agreed,
    canonical,
    count,
    items,
    member,
    name_of,
    need,
    refuse_unread_cache,
    sdk_model,
    tier,
)

_CACHE: Final = frozenset(f"cache{way}InputToken{end}" for way in ("Read", "Write") for end in ("s", "Count"))


def read(body: Json) -> Reading | None:
    """None: another vendor's body. Bedrock's answer names no model; SDKs that speak as it does may."""
    usage = member(body, "usage") if "usage" in body else body
    if "inputTokens" not in usage:
        return None
    refuse_unread_cache(_CACHE, usage)
    cache_read, cache_write = (
        agreed(
            f"tokens of cache{way}",
            count(usage, f"cache{way}InputTokens"),
            count(usage, f"cache{way}InputTokenCount"),
        )
        or 0
        for way in ("Read", "Write")
    )
    read_tokens = need(usage, "inputTokens") + cache_read + cache_write
    output = count(usage, "outputTokens")
    total = count(usage, "totalTokens")
    if output is None:
        raise Unreadable("outputTokens is missing")
    if total is not None and total != read_tokens + output:
        raise Unreadable(f"totalTokens is {total}, but its parts are {read_tokens} and {output}")
    quantities: dict[str, Quantity | None] = {
        "input_tokens": read_tokens,
        "output_tokens": output,
        "cache_read_tokens": cache_read,
        "cache_write_tokens": cache_write,
        **_by_lifetime(usage),
    }
    quantities["requests"] = _tool_calls(member(usage, "serverToolUsage"))
    return Reading(canonical(quantities), sdk_model(body), _tier(body))


def _tier(body: Json) -> str:
    """The service tier; one of its own where the answer says that its latency was optimized, which costs more."""
    name = tier(name_of(member(body, "serviceTier"), "type"))
    if name_of(member(body, "performanceConfig"), "latency") != "optimized":
        return name
    return "latency-optimized" if name in ("", "standard") else f"{name}-latency-optimized"


def _tool_calls(used: Json) -> Quantity:
    """Tools of Bedrock's own. Nobody says what they are called: they count as requests, which have no price here."""
    calls: Quantity = 0
    for name, value in used.items():
        calls += _tool_calls(value) if isinstance(value, dict) else count(used, name) or 0
    return calls


def _by_lifetime(usage: Json) -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    for detail in items(usage, "cacheDetails"):
        lifetime = name_of(detail, "ttl")
        if lifetime in ("5m", "1h"):
            unit = f"cache_write_{lifetime}_tokens"
            found[unit] = found.get(unit, 0) + (count(detail, "inputTokens") or 0)
    return found
