"""A vendor's own body -> canonical usage, the model that answered, service tier and reported cost. Pure.

One module a vendor, with `read`, which returns None for a body that is not of its shape. The fields alone tell
the shape, whoever is paid: one vendor's bodies come from many hosts (clouds, gateways), and one host has those of
many vendors.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from meterstream.processors.rating.vendors import (
    anthropic,
    apollo,
    bedrock,
    cohere,
    deepseek,
    exa,
    gemini,
    groq,
    mistral,
    openai,
    openrouter,
    otel,
    perplexity,
    twilio,
    vercel,
    xai,
)
from meterstream.processors.rating.vendors.reading import Json, Reading, Unreadable
from meterstream.schema.names import is_name

__all__ = ["Reading", "Unreadable", "read"]

_READERS: Final[tuple[Callable[[Json], Reading | None], ...]] = (
    otel.read,
    gemini.read,
    bedrock.read,
    cohere.read,
    perplexity.read,
    xai.read,
    openrouter.read,
    anthropic.read,
    deepseek.read,
    mistral.read,
    groq.read,
    twilio.read,
    exa.read,
    apollo.read,
)
"""In the order in which they are asked, between two that want to know the model."""

_RESOURCE: Final = "models/"
"""What Google's names begin with in some answers, also behind OpenAI's API."""

_decode = msgspec.json.Decoder(float_hook=Decimal).decode


def read(body: bytes, stated_model: str = "") -> Reading:
    """What a body (JSON) says. Raises Unreadable: the event is unmetered then.

    `stated_model`: what the event calls the model, where the body names none and it matters.
    """
    try:
        value: Any = _decode(body)
    except InvalidOperation as error:
        raise Unreadable("a number in it has an exponent beyond any quantity") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unreadable("not an object")
    reading = vercel.read(value, stated_model)
    for read_as_vendor in _READERS:
        reading = reading or read_as_vendor(value)
    reading = reading or openai.read(value, stated_model)  # the plainest bodies
    if reading is None:
        raise Unreadable(f"no shape that is known has the fields {_fields(value)}")
    if reading.model.startswith(_RESOURCE):
        return reading._replace(model=reading.model.removeprefix(_RESOURCE))
    return reading


def _fields(value: Json) -> str:
    usage = value.get("usage")
    names = sorted(filter(is_name, usage if isinstance(usage, dict) else value))
    return ", ".join(repr(name[:40]) for name in names[:8]) or "(none)"
