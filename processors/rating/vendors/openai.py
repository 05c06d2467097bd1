"""OpenAI: chat completions, responses, embeddings, images, audio and realtime; Azure and others speak as it does.

Two layouts, both inclusive: `prompt_tokens` with `completion_tokens`, and `input_tokens` with
`output_tokens`. `rejected_prediction_tokens` are in the output already. Beside them stand what gateways call the cache
as Anthropic does, within the prompt here, and what Perplexity does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meterstream.processors.rating.vendors import anthropic, langchain
from meterstream.processors.rating.vendors.reading import (
    KINDS,
    Json,
    Quantity,
    Reading,
    Unreadable,
    agreed,
    answer_of,
    cached_by_kind,
    canonical,
    check_split,
    count,
    items,
    member,
    name_of,
    need,
    output_of,
    refuse_unread_cache,
    tier,
    uncached,
)

_NAMES: Final = tuple((kind, f"{kind}_tokens") for kind in ("text", *KINDS))
_CACHE_READ: Final = ("cached_tokens", "cached_input_tokens", "cache_read_input_tokens", "cached_prompt_text_tokens")
_CACHE_WRITE: Final = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
_CACHE: Final = frozenset({
    *_CACHE_READ, *_CACHE_WRITE, "prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "num_cached_tokens",
})  # fmt: skip
"""Counts of a cache that are read, DeepSeek's and Mistral's by their modules."""


_SEARCH_TOOL: Final = "web_search_preview"
_SEARCHING_PREVIEW: Final = "-search-preview"
_SEARCHING: Final = (_SEARCHING_PREVIEW, "-search-api")
"""Chat models that search the web before each answer, of which the body says nothing."""
_DO_NOT_REASON: Final = ("gpt-3", "gpt-4", "chatgpt-", "gpt-5-chat")


def read(body: Json, stated_model: str = "") -> Reading | None:
    """None: another vendor's body. `stated_model`: where the body names none."""
    answer, usage = answer_of(body)
    model = name_of(answer, "model")
    if "prompt_tokens" in usage:
        quantities = {**chat(usage, model), **_searched(model or stated_model)}
    elif "input_tokens" in usage and not anthropic.is_shape_of(usage):
        quantities = {**responses(usage), **tools(answer)}
    elif usage.get("type") == "duration":
        quantities = {"audio_seconds": need(usage, "seconds")}
    else:
        return None
    # OpenRouter's, in both layouts; the items of an output may be the same searches.
    searches = count(member(usage, "server_tool_use"), "web_search_requests")
    if searches:
        quantities["web_searches"] = max(searches, quantities.get("web_searches") or 0)
        quantities["search_units"] = 0
    service_tier = tier(name_of(answer, "service_tier")) or langchain.tier_in(
        member(usage, "input_token_details"), member(usage, "output_token_details")
    )
    return Reading(canonical(quantities), model or langchain.model_of(answer), service_tier)


def chat(usage: Json, model: str = "", *, cached: Quantity | None = None) -> dict[str, Quantity | None]:
    """`prompt_tokens` and `completion_tokens`; embeddings have no output. `cached`: what else says how many were."""
    prompt = need(usage, "prompt_tokens")
    given, made = _details(usage, "prompt"), _details(usage, "completion")
    reasoning = agreed("reasoning tokens", count(made, "reasoning_tokens"), count(usage, "reasoning_tokens"))
    output = output_of(prompt, count(usage, "completion_tokens"), count(usage, "total_tokens"), reasoning, model)
    return _quantities(usage, prompt, given, output, made, reasoning, cached)


def responses(usage: Json) -> dict[str, Quantity | None]:
    """`input_tokens` and `output_tokens`."""
    read_tokens = need(usage, "input_tokens")
    given, made = _details(usage, "input"), _details(usage, "output")
    reasoning = count(made, "reasoning_tokens")
    output = output_of(read_tokens, count(usage, "output_tokens"), count(usage, "total_tokens"), reasoning)
    return _quantities(usage, read_tokens, given, output, made, reasoning)


def _details(usage: Json, which: str) -> Json:
    """Realtime, audio and assistants spell them in the singular."""
    return langchain.in_openais_words(member(usage, f"{which}_tokens_details", f"{which}_token_details"))


def _quantities(
    usage: Json,
    prompt: Quantity,
    given: Json,
    output: Quantity,
    made: Json,
    reasoning: Quantity | None,
    cached: Quantity | None = None,
) -> dict[str, Quantity | None]:
    refuse_unread_cache(_CACHE, usage, given)
    lifetimes = _by_lifetime(given)
    written = agreed("tokens written to the cache", *_said((given, usage), _CACHE_WRITE))
    return {
        "input_tokens": prompt,
        "output_tokens": output,
        "reasoning_tokens": reasoning,
        "cache_write_tokens": written or sum(quantity or 0 for quantity in lifetimes.values()),
        **lifetimes,
        **_parts(prompt, given, output, made, agreed("cached tokens", *_said((given, usage), _CACHE_READ), cached)),
    }


def tools(answer: Json) -> dict[str, Quantity | None]:
    """Paid tool calls are items of the output, not part of the usage. Opening a page found is not a search.

    Code runs in containers, which are paid by the session, however many calls share one. An image that is made on the
    way is paid by the tokens of another model, where the answer says them. The first web search tool, a preview, has a
    price of its own at models that do not reason: `search_units`.
    """
    calls, used = items(answer, "output"), member(answer, "tool_usage")
    searches = [member(call, "action") for call in calls if call.get("type") == "web_search_call"]
    searched: Quantity = sum(action.get("type", "search") == "search" for action in searches)
    drawn = member(used, "image_gen")
    seen, made = count(drawn, "input_tokens") or 0, count(drawn, "output_tokens") or 0
    if count(drawn, "total_tokens") not in (None, seen + made):
        raise Unreadable(f"image_gen has {drawn['total_tokens']} tokens, but its parts are {seen} and {made}")
    searched = max(searched, count(member(used, "web_search"), "num_requests") or 0)
    is_preview = name_of(answer, "model").startswith(_DO_NOT_REASON) and any(
        name_of(tool, "type").startswith(_SEARCH_TOOL) for tool in items(answer, "tools")
    )
    return {
        ("search_units" if is_preview else "web_searches"): searched,
        "file_searches": sum(call.get("type") == "file_search_call" for call in calls),
        "code_executions": _containers(calls),
        "other_model_input_tokens": seen,
        "other_model_output_tokens": made,
        "images": 0 if seen or made else sum(call.get("type") == "image_generation_call" for call in calls),
    }


def _searched(model: str) -> dict[str, Quantity | None]:
    if not any(name in model for name in _SEARCHING):
        return {}
    return {"search_units" if _SEARCHING_PREVIEW in model else "web_searches": 1}


def _containers(calls: Sequence[Json]) -> int:
    named: set[str] = set()
    unnamed = 0
    for call in calls:
        where = member(call, "environment") if call.get("type") == "shell_call" else call
        if call.get("type") == "code_interpreter_call" or "container_id" in where:
            name = name_of(where, "container_id")
            named.add(name)
            unnamed += not name
    return len(named - {""}) + unnamed


def _said(holders: Sequence[Json], names: tuple[str, ...]) -> list[Quantity | None]:
    return [count(holder, name) for holder in holders for name in names if name in holder]


def _by_lifetime(given: Json) -> dict[str, Quantity | None]:
    """LangChain has them among the details themselves."""
    kept = member(given, "cache_creation_token_details") or given
    return {
        "cache_write_5m_tokens": count(kept, "ephemeral_5m_input_tokens"),
        "cache_write_1h_tokens": count(kept, "ephemeral_1h_input_tokens"),
    }


def _parts(
    prompt: Quantity, given: Json, output: Quantity, made: Json, cached: Quantity | None
) -> dict[str, Quantity | None]:
    hit = member(given, "cached_tokens_details")
    quantities: dict[str, Quantity | None] = {"cache_read_tokens": cached}
    heard, kept, said = _by_kind(given), _by_kind(hit), _by_kind(made)
    check_split("prompt tokens", prompt, heard)
    check_split("cached tokens", cached, kept)
    check_split("output tokens", output, said)
    if not (heard or kept or said):
        return quantities  # by far the commonest
    if not kept:
        kept = cached_by_kind(prompt, heard, cached)
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
