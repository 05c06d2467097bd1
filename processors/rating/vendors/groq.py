"""Groq: OpenAI's chat layout; a stream ends with it under `x_groq`. Its many times are latency, not usage."""

from __future__ import annotations

from meterstream.processors.rating.vendors.openai import chat
from meterstream.processors.rating.vendors.reading import Json, Reading, canonical, member, name_of, tier


def read(body: Json) -> Reading | None:
    """None: another vendor's body, or one without anything of Groq's own."""
    usage = member(member(body, "x_groq"), "usage")
    if not usage:
        return None
    model = name_of(body, "model")
    return Reading(canonical(chat(usage, model)), model, tier(name_of(body, "service_tier")))
