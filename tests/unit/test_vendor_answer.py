"""A whole answer is cut to what the rater reads, and to nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from meterstream.processors.rating import vendors
from meterstream.producers.vendor_answer import usage_of
from meterstream.schema.errors import EventRejected
from tests.unit.test_vendors import GOLDEN
from tests.vendor_bodies import recorded

SECRET = "the secret of the prompt"


def reading(body: Any) -> Any:
    """What the rater makes of a body, or why it cannot."""
    try:
        return vendors.read(json.dumps(body).encode())
    except vendors.Unreadable as error:
        return str(error) if "no shape" not in str(error) else "no shape"


def test_what_is_left_of_every_recorded_answer_is_read_as_before() -> None:
    bodies = recorded()
    assert len(bodies) > 500
    for one in bodies:
        assert reading(usage_of(one.body)) == reading(one.body), one.id


def with_content(value: Any) -> Any:
    """Content wherever a vendor may put some, beside what was there."""
    if isinstance(value, dict):
        content = {
            "content": SECRET,
            "messages": [{"role": "user", "content": SECRET, "code": 424242}],
            "choices": [{"text": SECRET, "logprobs": [0.4242, 424242]}],
            "candidates": [{"args": {"age": 424242}}],
            "text": SECRET,
            "body": "424242",
            "to": "424242",
            SECRET: SECRET,
        }
        return {**content, **value}
    return value


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield name
            yield from strings(member)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    else:
        yield json.dumps(value)


def test_what_is_left_is_left_as_it_is() -> None:
    """The rater makes it anew of what a client has made: a row then has what the client sent."""
    for body in (*(one.body for one in recorded()), *(body for body, _ in GOLDEN.values())):
        left = usage_of(with_content(body))
        assert usage_of(left) == left


WORDS = {
    "a name of a count": {"usage": {SECRET: 5, "prompt_tokens": 5, "completion_tokens": 1}},
    "the kind of a count": {"usage": {"type": SECRET, "input_tokens": 5, "output_tokens": 1}},
    "the model of a round": {"usage": {"model": SECRET, "input_tokens": 5, "output_tokens": 1}},
    "an attribute of a span": {
        "attributes": {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1, "gen_ai.usage.note": SECRET}
    },
    "a pair of a span": {
        "attributes": [
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "5", "stringValue": SECRET}, "note": SECRET},
            {"key": "gen_ai.usage.output_tokens", "value": {"intValue": 1}},
        ]
    },
}


@pytest.mark.parametrize("body", WORDS.values(), ids=WORDS)
def test_no_sentence_stands_where_a_word_is_expected(body: dict[str, Any]) -> None:
    left = usage_of(body)
    assert SECRET not in json.dumps(left)
    found = vendors.read(json.dumps(left).encode())
    assert (found.usage["input_tokens"], found.usage["output_tokens"]) == (5, 1)


@pytest.mark.parametrize("model", ["@cf/meta/llama-3", "arn:aws:bedrock:eu::x/y", "/models/My Model (v2).gguf", "模型"])
def test_a_models_name_is_kept_as_it_is(model: str) -> None:
    assert usage_of({"model": model, "usage": {"prompt_tokens": 1}})["model"] == model


def test_content_never_comes_through() -> None:
    for one in recorded():
        left = usage_of(with_content(one.body))
        assert not any(SECRET in text or "4242" in text for text in strings(left)), one.id
        assert reading(left) == reading(one.body)


def test_tool_calls_are_counted_without_their_arguments() -> None:
    answer = {
        "model": "gpt-5",
        "output": [
            {"type": "web_search_call", "id": SECRET, "action": {"type": "search", "query": SECRET}},
            {"type": "message", "content": [{"type": "output_text", "text": SECRET}]},
        ],
        "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7},
    }
    for body in (answer, {"type": "response.completed", "response": answer}):
        left = usage_of(body)
        assert SECRET not in json.dumps(left)
        assert vendors.read(json.dumps(left).encode()).usage["web_searches"] == 1


class _Usage(BaseModel):
    prompt_token_count: int = 7
    candidates_token_count: int = 3
    total_token_count: int = 10


class _GoogleAnswer(BaseModel):
    text: str = SECRET
    usage_metadata: _Usage = _Usage()
    model_version: str = "gemini-2.5-flash"


class _Answer(BaseModel):
    content: str = SECRET
    model: str = "claude-sonnet-4-5"
    usage: dict[str, int] = {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 0}


@pytest.mark.parametrize(
    "answer",
    [
        _GoogleAnswer(),
        _Answer(),
        SimpleNamespace(to_dict=lambda: _Answer().model_dump()),
        SimpleNamespace(model_dump=lambda: _Answer().model_dump()),
    ],
    ids=["google", "pydantic", "to_dict", "model_dump"],
)
def test_objects_of_sdks(answer: object) -> None:
    left = usage_of(answer)
    assert SECRET not in json.dumps(left)
    found = vendors.read(json.dumps(left).encode())
    assert (found.usage["input_tokens"], found.usage["output_tokens"]) == (7, 3)
    assert found.model in ("gemini-2.5-flash", "claude-sonnet-4-5")


@pytest.mark.parametrize("answer", [None, "text", 5, [], object(), SimpleNamespace(to_dict=lambda: 5)])
def test_what_is_no_answer_is_refused(answer: object) -> None:
    with pytest.raises(EventRejected, match="give a dict"):
        usage_of(answer)


def test_every_worked_case_is_read_as_before() -> None:
    for name, (body, _) in GOLDEN.items():
        assert reading(usage_of(body)) == reading(body), name
        assert reading(usage_of(with_content(body))) == reading(body), name


class _Grounding(BaseModel):
    web_search_queries: list[str] = [SECRET, SECRET, "", f"{SECRET} again"]
    grounding_chunks: list[dict[str, Any]] = [{"web": {"title": SECRET}, "maps": None}]


class _Candidate(BaseModel):
    content: str = SECRET
    grounding_metadata: _Grounding = _Grounding()


class _Searched(_GoogleAnswer):
    model_version: str = "gemini-3-pro-preview"
    candidates: list[_Candidate] = [_Candidate()]


@pytest.mark.parametrize(
    "answer",
    [
        _Searched(),
        {
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3},
            "modelVersion": "gemini-3-pro-preview",
            "candidates": [{"groundingMetadata": {"webSearchQueries": [SECRET, "", "b"]}, "content": SECRET}],
        },
    ],
    ids=["google-genai", "dict"],
)
def test_searches_of_gemini_are_counted_without_their_words(answer: object) -> None:
    left = usage_of(answer)
    assert SECRET not in json.dumps(left)
    assert vendors.read(json.dumps(left).encode()).usage["web_searches"] == 2


def test_containers_are_told_apart_without_their_names() -> None:
    calls = [{"type": "code_interpreter_call", "container_id": name, "code": SECRET} for name in (SECRET, SECRET, "b")]
    left = usage_of({"output": calls, "usage": {"input_tokens": 5, "output_tokens": 2}})
    assert SECRET not in json.dumps(left)
    assert vendors.read(json.dumps(left).encode()).usage["code_executions"] == 2
