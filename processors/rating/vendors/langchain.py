"""LangChain's `usage_metadata`: OpenAI's second layout, inclusive for every vendor, with details in words of its own.

OpenAI's service tier is a part of these words there: `flex_cache_read`, and `flex` for the rest.
"""

from __future__ import annotations

from typing import Final

from meterstream.processors.rating.vendors.reading import Json, Unreadable, agreed, count, member, name_of

_NAMES: Final = {
    "cache_read": "cached_tokens",
    "cache_creation": "cache_creation_tokens",
    "reasoning": "reasoning_tokens",
    **{kind: f"{kind}_tokens" for kind in ("text", "audio", "image", "video")},
}
_TIERS: Final = ("flex", "priority")
_IN_TIERS: Final = {f"{tier}_{name}": (tier, openai) for tier in _TIERS for name, openai in _NAMES.items()}
_WORDS: Final = frozenset({*_NAMES, *_TIERS, *_IN_TIERS})


def in_openais_words(details: Json) -> Json:
    """Details of a total as OpenAI names them; what has its names already stays."""
    if _WORDS.isdisjoint(details):
        return details  # by far the commonest
    found = {name: value for name, value in details.items() if name not in _WORDS}
    for name in _WORDS & details.keys():
        known = _IN_TIERS[name][1] if name in _IN_TIERS else _NAMES.get(name)
        if known is not None:
            what = known.removesuffix("_tokens") + " tokens"
            found[known] = agreed(what, count(found, known), count(details, name))
    return found


def tier_in(*details: Json) -> str:
    """The service tier that the words name; empty where they name none. Raises Unreadable where they name two."""
    named = {
        _IN_TIERS[name][0] if name in _IN_TIERS else name
        for holder in details
        for name in _WORDS & holder.keys()
        if (name in _IN_TIERS or name in _TIERS) and holder[name]
    }
    if len(named) > 1:
        raise Unreadable(f"the details name two service tiers, {' and '.join(sorted(named))}")
    return "".join(named)


def model_of(answer: Json) -> str:
    """Of a message, whose `response_metadata` says it; empty where it does not."""
    said = member(answer, "response_metadata")
    return name_of(said, "model_name") or name_of(said, "model")
