"""DeepSeek: OpenAI's chat layout, in which the prompt is what hit the cache and what missed it."""

from __future__ import annotations

from meterstream.processors.rating.vendors.openai import chat
from meterstream.processors.rating.vendors.reading import (
    Json,
    Reading,
    Unreadable,
    canonical,
    count,
    member,
    name_of,
    need,
)


def read(body: Json) -> Reading | None:
    """None: another vendor's body."""
    usage = member(body, "usage") if "usage" in body else body
    hit, miss = (count(usage, f"prompt_cache_{end}_tokens") for end in ("hit", "miss"))
    if hit is None and miss is None:
        return None
    prompt = need(usage, "prompt_tokens")
    if hit is None:
        hit = max(prompt - (miss or 0), 0)
    if miss is not None and hit + miss != prompt:
        raise Unreadable(f"prompt_tokens is {prompt}, but its parts are {hit} and {miss}")
    model = name_of(body, "model")
    return Reading(canonical(chat(usage, model, cached=hit)), model)
