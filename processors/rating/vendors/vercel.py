"""Vercel's AI SDK, whose words are like Bedrock's. From version 6 on `inputTokens` includes the cache.

Before, it did where the vendor's own count does: not for Anthropic and Bedrock, of which it also left out what was
written to the cache. So there its usage says too little to be charged.
"""

from __future__ import annotations

import re
from typing import Final

from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    Unreadable,
    agreed,
    canonical,
    count,
    member,
    need,
    output_of,
    refuse_unread_cache,
    sdk_model,
)

_MARKS: Final = ("inputTokenDetails", "outputTokenDetails", "cachedInputTokens", "reasoningTokens")
_CACHE: Final = frozenset({"cachedInputTokens", "cacheReadTokens", "cacheWriteTokens", "noCacheTokens"})
_LEAVES_THE_CACHE_OUT: Final = re.compile(r"claude|anthropic|amazon\.|nova|-v[0-9]+:[0-9]+$", re.IGNORECASE)


def read(body: Json, stated_model: str = "") -> Reading | None:
    """None: another body, or one without anything of the SDK's own. `stated_model`: where the body names none."""
    usage = member(body, "usage") if "usage" in body else body
    if "inputTokens" not in usage or not any(mark in usage for mark in _MARKS):
        return None
    given, made = member(usage, "inputTokenDetails"), member(usage, "outputTokenDetails")
    refuse_unread_cache(_CACHE, usage, given)
    model = sdk_model(body)
    answered = model or stated_model
    prompt = need(usage, "inputTokens")
    cached = agreed("cached tokens", count(given, "cacheReadTokens"), count(usage, "cachedInputTokens"))
    if given:
        _check_parts(prompt, given)
    elif cached and (not answered or _LEAVES_THE_CACHE_OUT.search(answered)):
        raise Unreadable(
            "version 5 of the AI SDK says inputTokens with or without its cache, by vendor: for Claude, Bedrock and "
            "bodies without a model send the vendor's own usage, or that of version 6"
        )
    reasoning = agreed("reasoning tokens", count(made, "reasoningTokens"), count(usage, "reasoningTokens"))
    output = output_of(prompt, count(usage, "outputTokens"), count(usage, "totalTokens"), reasoning)
    quantities = {
        "input_tokens": prompt,
        "output_tokens": output,
        "cache_read_tokens": cached,
        "cache_write_tokens": count(given, "cacheWriteTokens"),
        "reasoning_tokens": reasoning,
    }
    return Reading(canonical(quantities), model)


def _check_parts(prompt: Quantity, given: Json) -> None:
    fresh, hit, written = (count(given, name) for name in ("noCacheTokens", "cacheReadTokens", "cacheWriteTokens"))
    if fresh is not None and fresh + (hit or 0) + (written or 0) != prompt:
        raise Unreadable(f"inputTokens is {prompt}, but its parts are {fresh}, {hit or 0} and {written or 0}")
