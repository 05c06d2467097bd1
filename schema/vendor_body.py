"""A vendor's answer -> what it says about usage, and nothing of what was asked or answered. Pure.

The client applies it before it sends an answer, the rater before it stores one. Nothing is passed on because it looks
harmless: members are allowed, one by one. Of what they hold numbers stay under names that can be names, and texts only
where no content belongs, as long as they are one word. What the readers of `meterstream.processors.rating.vendors` need
is all there, which tests hold against every recorded answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from meterstream.schema.names import is_name

_COUNTS: Final = frozenset({
    "usage", "usageMetadata", "usage_info", "x_groq", "meta", "billed_units", "tokens", "costDollars",
    "cache_creation", "server_tool_use", "serviceTier", "iterations", "tool_usage", "image_gen", "web_search", "cost",
    "search_web", "fetch_url", "usage_metadata", "response_metadata", "performanceConfig", "serverToolUsage",
})  # fmt: skip
"""Members that hold counts, at any depth; so does every member whose name ends in `details`."""
_BY_TOOL: Final = frozenset({"serverToolUsage"})
"""Of these, counts by the names of tools, whatever these are."""
_TEXTS: Final = frozenset({
    "model", "modelVersion", "modelId", "model_name", "service_tier", "serviceTier", "speed", "type", "modality", "ttl",
    "trafficType", "latency", "status", "direction", "inference_geo", "search_context_size", "price_unit",
    "resolvedSearchType", "searchType", "gen_ai.response.model", "gen_ai.operation.name",
    "openai.response.service_tier", "gen_ai.openai.response.service_tier",
})  # fmt: skip
"""Members that are words, never content."""
_PRESENT: Final = frozenset({"answer"})
"""Members whose presence says what kind of call it was."""
_TOOL_CALLS: Final = frozenset({
    "web_search_call", "file_search_call", "code_interpreter_call", "shell_call", "image_generation_call",
})  # fmt: skip
_SEARCH_TOOL: Final = "web_search"
"""What the kinds of tools begin with of which one costs otherwise than the other."""
_QUERIES: Final = ("webSearchQueries", "imageSearchQueries")
"""What Gemini's candidates say of searches: texts, of which only the number is kept."""
_DEPTH_MAX: Final = 8
_COUNT_NAME: Final = re.compile(
    r"(?i).*(?:tokens?|token_?count|seconds|cost|_units|credits_consumed|num_segments|num_media|error_code)|price"
    r"|.*cache.*"
)
"""Numbers of an answer itself, which a usage object alone is too; within the members above every number is a count."""
_SCALARS: Final = (str, int, float, Decimal)
_WORD: Final = re.compile(r"[A-Za-z0-9@/][A-Za-z0-9@/_.:+-]{0,127}")
_MODELS: Final = frozenset({"model", "modelVersion", "modelId"})
"""Of an answer itself: the model's name, which the ledger has as it is, be it a path with blanks."""
_MODEL_LENGTH_MAX: Final = 128
_PAIR_VALUES: Final = ("intValue", "doubleValue", "stringValue")
"""How OTLP writes the value of an attribute."""
_NUMBER_TEXT: Final = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?")
MEMBERS: Final = frozenset({
    *_COUNTS, *_TEXTS, *_PRESENT, "response", "output", "candidates", "results", "statuses", "attributes",
    "num_segments", "num_media", "error_code", "price", "credits_consumed", "input_tokens", "output_tokens",
    "prompt_tokens", "completion_tokens", "total_tokens", "seconds",
})  # fmt: skip
"""Members of an answer itself of which something may stay; there are others of counts, whose names end as these do."""


def usage_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON values of an answer that say something about usage. What it returned it returns again as it is."""
    found = _counts(body, depth=0)
    if "response" in body:  # the event that ends a stream
        found["response"] = usage_of(_mapping_or_empty(body["response"]))
    if isinstance(body.get("output"), list):
        found["output"] = _tool_calls(body["output"])
    if isinstance(body.get("tools"), list) and (tools := _search_tools(body["tools"])):
        found["tools"] = tools
    if isinstance(body.get("candidates"), list) and (grounded := _grounded(body["candidates"])):
        found["candidates"] = grounded
    if isinstance(body.get("results"), list):
        found["results"] = [
            {"summary": True} if _mapping_or_empty(item).get("summary") else {} for item in body["results"]
        ]
    if isinstance(body.get("statuses"), list):
        found["statuses"] = [
            {"status": "success"} if _mapping_or_empty(item).get("status") == "success" else {}
            for item in body["statuses"]
        ]
    if "attributes" in body:
        found["attributes"] = _span(body["attributes"])
    found.update({name: "" for name in _PRESENT if name in body})
    return found


def _mapping_or_empty(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _counts(holder: Mapping[Any, Any], *, depth: int, is_open: bool = False) -> dict[str, Any]:
    """`is_open`: members of any name hold counts there."""
    found: dict[str, Any] = {}
    for name, value in holder.items():
        if not isinstance(name, str) or not is_name(name):
            continue
        if value is None or isinstance(value, _SCALARS):
            if _is_kept(name, value, depth):
                found[name] = value
        elif depth < _DEPTH_MAX and (is_open or name in _COUNTS or name.lower().endswith("details")):
            if isinstance(value, Mapping):
                found[name] = _counts(value, depth=depth + 1, is_open=is_open or name in _BY_TOOL)
            elif isinstance(value, list):
                found[name] = [_counts(item, depth=depth + 1) for item in value if isinstance(item, Mapping)]
    return found


def _is_kept(name: str, value: object, depth: int) -> bool:
    if not isinstance(value, str):
        return depth > 0 or _is_count(name) or (value is None and name in _COUNTS)
    if depth == 0 and name in _MODELS:
        return len(value) <= _MODEL_LENGTH_MAX and value.isprintable()
    if name in _TEXTS and _WORD.fullmatch(value):
        return True
    return (depth > 0 or _is_count(name)) and _NUMBER_TEXT.fullmatch(value) is not None


@lru_cache(maxsize=1024)
def _is_count(name: str) -> bool:
    """Of a member of an answer itself."""
    return _COUNT_NAME.fullmatch(name) is not None


def _tool_calls(output: list[Any]) -> list[dict[str, Any]]:
    """Their kinds, and which of them share a container, by a number of our own."""
    containers: dict[object, str] = {}
    found: list[dict[str, Any]] = []
    for item in map(_mapping_or_empty, output):
        kind = item.get("type")
        if kind not in _TOOL_CALLS:
            continue
        where = _mapping_or_empty(item.get("environment")) if kind == "shell_call" else item
        call: dict[str, Any] = {"type": kind}
        if kind == "web_search_call":
            call["action"] = _counts(_mapping_or_empty(item.get("action")), depth=_DEPTH_MAX)
        elif isinstance(where.get("container_id"), str):
            number = containers.setdefault(where["container_id"], str(len(containers) + 1))
            call |= {"environment": {"container_id": number}} if kind == "shell_call" else {"container_id": number}
        found.append(call)
    return found


def _search_tools(tools: list[Any]) -> list[dict[str, Any]]:
    """Which of those that search were offered to the model."""
    kinds = {kind for tool in tools if isinstance(kind := _mapping_or_empty(tool).get("type"), str)}
    return [{"type": kind} for kind in sorted(kinds) if kind.startswith(_SEARCH_TOOL) and _WORD.fullmatch(kind)]


def _grounded(candidates: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for candidate in map(_mapping_or_empty, candidates):
        said = _mapping_or_empty(candidate.get("groundingMetadata"))
        grounding: dict[str, Any] = {name: _queries(said[name]) for name in _QUERIES if said.get(name)}
        chunks = said.get("groundingChunks")
        if isinstance(chunks, list) and any(_mapping_or_empty(chunk).get("maps") is not None for chunk in chunks):
            grounding["groundingChunks"] = [{"maps": {}}]
        if grounding:
            found.append({"groundingMetadata": grounding})
    return found


def _queries(said: Any) -> int:
    """How many differ, without empty ones; a number is one already."""
    if not isinstance(said, list):
        return said if isinstance(said, int) else 0
    return len({query for query in said if isinstance(query, str)} - {""})


def _span(attributes: object) -> Any:
    """A span's attributes about usage, as an object or as OTLP's list of pairs."""
    if isinstance(attributes, Mapping):
        return {name: value for name, value in attributes.items() if _is_of_usage(name, value)}
    pairs = attributes if isinstance(attributes, list) else []
    return [kept for pair in map(_mapping_or_empty, pairs) if (kept := _pair(pair))]


def _pair(pair: Mapping[Any, Any]) -> dict[str, Any]:
    name, value = pair.get("key"), pair.get("value")
    if not isinstance(value, Mapping):
        return {"key": name, "value": value} if _is_of_usage(name, value) else {}
    said = {kind: value[kind] for kind in _PAIR_VALUES if kind in value and _is_of_usage(name, value[kind])}
    return {"key": name, "value": said} if said else {}


def _is_of_usage(name: object, value: object) -> bool:
    if not isinstance(name, str) or not is_name(name):
        return False
    if isinstance(value, str) and name in _TEXTS:
        return _WORD.fullmatch(value) is not None
    is_number = _NUMBER_TEXT.fullmatch(value) is not None if isinstance(value, str) else isinstance(value, _SCALARS)
    return is_number and name.startswith("gen_ai.usage.")
