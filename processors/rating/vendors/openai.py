"""OpenAI: chat completions, responses, embeddings, images, audio and realtime; Azure and others speak as it does.

Two layouts, both inclusive: `prompt_tokens` with `completion_tokens`, and `input_tokens` with
`output_tokens`. `rejected_prediction_tokens` are in the output already.
"""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors import anthropic
from meterstream.processors.rating.vendors.reading import (
    KINDS,
    Json,
    Quantity,
    Reading,
    answer_of,
    canonical,
    check_split,
    count,
    items,
    member,
    name_of,
    need,
    output_of,
    tier,
    uncached,
)

_NAMES: Final = tuple((kind, f"{kind}_tokens") for kind in ("text", *KINDS))


def read(body: Json) -> Reading | None:
    """None: another vendor's body."""
    answer, usage = answer_of(body)
    if "prompt_tokens" in usage:
        quantities = chat(usage)
    elif "input_tokens" in usage and not anthropic.is_shape_of(usage):
        quantities = {**responses(usage), **tools(answer)}
    elif usage.get("type") == "duration":
        quantities = {"audio_seconds": need(usage, "seconds")}
    else:
        return None
    return Reading(canonical(quantities), name_of(answer, "model"), tier(name_of(answer, "service_tier")))


def chat(usage: Json) -> dict[str, Quantity | None]:
    """`prompt_tokens` and `completion_tokens`; embeddings have no output."""
    given, made = member(usage, "prompt_tokens_details"), member(usage, "completion_tokens_details")
    prompt = need(usage, "prompt_tokens")
    output = output_of(prompt, count(usage, "completion_tokens"), count(usage, "total_tokens"))
    quantities = {"input_tokens": prompt, "output_tokens": output, **_parts(prompt, given, output, made)}
    if quantities["cache_read_tokens"] is None:
        quantities["cache_read_tokens"] = count(usage, "cached_tokens")
    return quantities


def responses(usage: Json) -> dict[str, Quantity | None]:
    """`input_tokens` and `output_tokens`; realtime and audio spell the details in the singular."""
    given = member(usage, "input_tokens_details", "input_token_details")
    made = member(usage, "output_tokens_details", "output_token_details")
    read_tokens = need(usage, "input_tokens")
    output = output_of(read_tokens, count(usage, "output_tokens"), count(usage, "total_tokens"))
    return {"input_tokens": read_tokens, "output_tokens": output, **_parts(read_tokens, given, output, made)}


def tools(answer: Json) -> dict[str, Quantity | None]:
    """Paid tool calls are items of the output, not part of the usage. Opening a page found is not a search."""
    calls = items(answer, "output")
    searches = [member(call, "action") for call in calls if call.get("type") == "web_search_call"]
    return {
        "web_searches": sum(action.get("type", "search") == "search" for action in searches),
        "file_searches": sum(call.get("type") == "file_search_call" for call in calls),
    }


def _parts(prompt: Quantity, given: Json, output: Quantity, made: Json) -> dict[str, Quantity | None]:
    hit = member(given, "cached_tokens_details")
    cached = count(given, "cached_tokens")
    quantities: dict[str, Quantity | None] = {
        "cache_read_tokens": cached,
        "cache_write_tokens": count(given, "cache_write_tokens"),
        "reasoning_tokens": count(made, "reasoning_tokens"),
    }
    heard, kept, said = _by_kind(given), _by_kind(hit), _by_kind(made)
    check_split("prompt tokens", prompt, heard)
    check_split("cached tokens", cached, kept)
    check_split("output tokens", output, said)
    if not (heard or kept or said):
        return quantities  # by far the commonest
    for kind in KINDS:
        in_cache = kept.get(kind, 0)
        quantities[f"cache_read_{kind}_tokens"] = in_cache
        quantities[f"input_{kind}_tokens"] = uncached(heard.get(kind, 0), in_cache, kind)
        quantities[f"output_{kind}_tokens"] = said.get(kind, 0)
    return quantities


def _by_kind(details: Json) -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    if details:
        for kind, name in _NAMES:
            quantity = count(details, name)
            if quantity:
                found[kind] = quantity
    return found
