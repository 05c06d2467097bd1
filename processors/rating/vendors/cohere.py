"""Cohere: `billed_units` is what is paid. `tokens` are the real ones, with a preamble that nobody is charged for."""

from __future__ import annotations

from meterstream.processors.rating.vendors.reading import (
    Json,
    Reading,
    Unreadable,
    canonical,
    count,
    member,
    name_of,
)


def read(body: Json) -> Reading | None:
    """None: another vendor's body. Chat has it in `usage`, embedding and reranking in `meta`."""
    holder = member(body, "usage", "meta") or body
    billed = member(holder, "billed_units")
    if not billed:
        if "tokens" in holder:
            raise Unreadable("billed_units is missing; tokens alone do not say what is paid")
        return None
    text, image = count(billed, "input_tokens"), count(billed, "image_tokens")
    return Reading(
        canonical(
            {
                "input_tokens": None if text is None and not image else (text or 0) + (image or 0),
                "input_image_tokens": image,
                "output_tokens": count(billed, "output_tokens"),
                "images": count(billed, "images"),
                "search_units": count(billed, "search_units"),
                "classifications": count(billed, "classifications"),
            }
        ),
        name_of(body, "model"),
    )
