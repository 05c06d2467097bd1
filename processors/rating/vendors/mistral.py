"""Mistral: OpenAI's chat layout, pages of OCR, and seconds of audio, whose tokens only the total holds."""

from __future__ import annotations

from meterstream.processors.rating.vendors.openai import chat
from meterstream.processors.rating.vendors.reading import (
    Json,
    Quantity,
    Reading,
    canonical,
    count,
    member,
    name_of,
    need,
)


def read(body: Json) -> Reading | None:
    """None: another vendor's body."""
    usage = member(body, "usage") if "usage" in body else body
    model = name_of(body, "model")
    pages = member(body, "usage_info")
    if pages:
        quantities: dict[str, Quantity | None] = {"pages": need(pages, "pages_processed")}
    elif "prompt_tokens" in usage and ("num_cached_tokens" in usage or "prompt_audio_seconds" in usage):
        seconds = count(usage, "prompt_audio_seconds")
        # Audio is paid by the second: its tokens, which are in the total only, are no output.
        told = usage if not seconds else {**usage, "total_tokens": None}
        quantities = chat(told, model, cached=count(usage, "num_cached_tokens"))
        quantities["audio_seconds"] = seconds
    else:
        return None
    return Reading(canonical(quantities), model)
