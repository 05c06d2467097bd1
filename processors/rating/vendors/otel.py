"""The attributes of an OpenTelemetry `gen_ai` span, old names and new, as an object or as OTLP's list of pairs.

Its counts are inclusive, as ours are.
"""

from __future__ import annotations

from typing import Any, Final

from meterstream.processors.rating.vendors.reading import (
    Json,
    Reading,
    Unreadable,
    canonical,
    count,
    items,
    name_of,
    tier,
)

_USAGE: Final = "gen_ai.usage."
# As the conventions have them, then as instrumentations wrote them before those had any.
_CACHE_READ: Final = ("cache_read.input_tokens", "cache_read_input_tokens", "details.cache_read_tokens")
_CACHE_WRITE: Final = (
    *("cache_creation.input_tokens", "cache_write.input_tokens"),
    *("cache_creation_input_tokens", "details.cache_write_tokens"),
)
_REASONING: Final = ("reasoning.output_tokens", "reasoning_output_tokens", "details.reasoning_tokens")
_TIERS: Final = ("openai.response.service_tier", "gen_ai.openai.response.service_tier")


def read(body: Json) -> Reading | None:
    """None: no span's attributes."""
    attributes = body.get("attributes", body)
    if isinstance(attributes, list):
        attributes = {str(pair.get("key")): _value(pair.get("value")) for pair in items(body, "attributes")}
    if not isinstance(attributes, dict) or not any(name.startswith(_USAGE) for name in attributes):
        return None
    if attributes.get("gen_ai.operation.name") == "fetch_response":
        raise Unreadable("the span fetched an answer; its usage is that of another span")
    quantities = {
        "input_tokens": count(attributes, f"{_USAGE}input_tokens", f"{_USAGE}prompt_tokens"),
        "output_tokens": count(attributes, f"{_USAGE}output_tokens", f"{_USAGE}completion_tokens"),
        "cache_read_tokens": count(attributes, *_names(_CACHE_READ)),
        "cache_write_tokens": count(attributes, *_names(_CACHE_WRITE)),
        "reasoning_tokens": count(attributes, *_names(_REASONING)),
    }
    if quantities["input_tokens"] is None:
        raise Unreadable("gen_ai.usage.input_tokens is missing")
    if quantities["output_tokens"] is None and attributes.get("gen_ai.operation.name") != "embeddings":
        raise Unreadable("gen_ai.usage.output_tokens is missing")
    service_tier = next((name_of(attributes, name) for name in _TIERS if name in attributes), "")
    return Reading(canonical(quantities), name_of(attributes, "gen_ai.response.model"), tier(service_tier))


def _names(names: tuple[str, ...]) -> list[str]:
    return [f"{_USAGE}{name}" for name in names]


def _value(value: Any) -> Any:
    """OTLP's {"intValue": "12"} -> "12"."""
    return next(iter(value.values()), None) if isinstance(value, dict) else value
