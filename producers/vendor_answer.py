"""A vendor's whole answer, as its SDK gives it -> what it says about usage (`meterstream.schema.vendor_body`). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from meterstream.schema import vendor_body
from meterstream.schema.errors import EventRejected

_MODEL_NAMES: Final = ("model", "modelVersion", "modelId", "model_name", "gen_ai.response.model")
_MODEL_HOLDERS: Final = ("response", "response_metadata", "attributes")
"""Members of an answer in which it may name its model, where it does not itself."""
_CAMEL: Final = re.compile(r"_([a-z])")
_WANTED: Final[dict[str, Any]] = {
    **dict.fromkeys((*vendor_body.MEMBERS, "model_version"), True),
    "tools": {"__all__": {"type"}},
    "candidates": {"__all__": {"grounding_metadata", "groundingMetadata"}},
}


def usage_of(answer: object) -> dict[str, Any]:
    """`answer`: a mapping, or an SDK's object with `model_dump` or `to_dict`. JSON values only come back.

    Raises EventRejected when it is neither.
    """
    body = _mapping(answer)
    if _is_google_genais(body):
        body = {
            "usageMetadata": _camel_values(body["usage_metadata"]),
            "modelVersion": body.get("model_version"),
            "candidates": _camel_values(body.get("candidates")),
        }
    return vendor_body.usage_of(body)


def model_of(usage: Mapping[str, Any]) -> str:
    """The model that answered, of what `usage_of` has returned; empty where it names none."""
    places = [usage, *(usage.get(name) for name in _MODEL_HOLDERS)]
    named = (place.get(name) for place in places if isinstance(place, Mapping) for name in _MODEL_NAMES)
    return next((name for name in named if isinstance(name, str) and name), "")


def has_counts(usage: object) -> bool:
    """Whether what `usage_of` has returned says how much; a body may name a model and nothing else."""
    if isinstance(usage, Mapping):
        return any(has_counts(value) for name, value in usage.items() if name not in _MODEL_NAMES)
    if isinstance(usage, list):
        return any(map(has_counts, usage))
    return (isinstance(usage, int | float | Decimal) and not isinstance(usage, bool)) or (
        isinstance(usage, str) and usage.isdecimal()
    )


def _is_google_genais(body: Mapping[str, Any]) -> bool:
    """Its objects have Python's spelling. LangChain's messages have a member of this name, too."""
    metadata = body.get("usage_metadata")
    return "usage_metadata" in body and not (isinstance(metadata, Mapping) and "input_tokens" in metadata)


def _mapping(answer: object) -> Mapping[str, Any]:
    if isinstance(answer, Mapping):
        return answer
    dump = getattr(answer, "model_dump", None)
    if callable(dump):
        try:  # the wanted members alone: the content of an answer is not even copied
            dumped = dump(mode="json", by_alias=False, include=_WANTED)
        except TypeError:  # no model of pydantic's
            dumped = dump()
    else:
        convert = getattr(answer, "to_dict", None)
        dumped = convert() if callable(convert) else None
    if not isinstance(dumped, Mapping):
        raise EventRejected(
            "invalid_field",
            f"the response is a {type(answer).__name__}: give a dict, or an object with model_dump() or to_dict()",
        )
    return dumped


def _camel(name: str) -> str:
    return _CAMEL.sub(lambda match: match[1].upper(), name)


def _camel_values(value: object) -> Any:
    if isinstance(value, Mapping):
        return {_camel(name): _camel_values(member) for name, member in value.items()}
    return [_camel_values(item) for item in value] if isinstance(value, list) else value
