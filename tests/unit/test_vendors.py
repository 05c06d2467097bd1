"""Vendors' own bodies: every recorded one is read, and each shape and each trap has a case worked out by hand."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from meterstream.processors.rating.vendors import Reading, Unreadable, read
from meterstream.schema.units import PARENTS, misfit
from tests.vendor_bodies import Recorded, recorded

BODIES = recorded()


def reading_of(body: Any) -> Reading:
    return read(json.dumps(body).encode())


def test_all_bodies_are_here() -> None:
    assert len(BODIES) == 534


@pytest.mark.parametrize("recorded", BODIES, ids=lambda recorded: recorded.id)
def test_a_recorded_body_is_read(recorded: Recorded) -> None:
    reading = reading_of(recorded.body)
    usage = recorded.body.get("usage") or recorded.body.get("usageMetadata") or recorded.body["meta"]
    tokens = reading.usage["input_tokens"] + reading.usage.get("output_tokens", 0)
    total = next((usage[name] for name in ("total_tokens", "totalTokenCount", "totalTokens") if name in usage), None)
    if total is not None:
        assert tokens == total
    assert misfit(reading.usage) is None
    stated = recorded.body.get("model") or recorded.body.get("modelVersion") or ""
    assert reading.model == stated.removeprefix("models/")
    assert all(quantity > 0 for unit, quantity in reading.usage.items() if PARENTS[unit] is not None)


def test_what_the_recorded_bodies_state_is_what_is_read() -> None:
    """Sums over all bodies of a shape, from the fields themselves."""

    def told(shape: str, *path: str) -> int:
        return sum(_at(recorded.body, path) for recorded in BODIES if recorded.shape == shape)

    def heard(shape: str, unit: str) -> int | Decimal:
        return sum(reading_of(r.body).usage.get(unit, 0) for r in BODIES if r.shape == shape)

    for shape, unit, fields in (
        ("openai.chat", "input_tokens", ["prompt_tokens"]),
        ("openai.chat", "output_tokens", ["completion_tokens"]),
        ("openai.responses", "reasoning_tokens", ["output_tokens_details.reasoning_tokens"]),
        ("openai.responses", "cache_read_tokens", ["input_tokens_details.cached_tokens"]),
        ("openai.responses", "cache_write_tokens", ["input_tokens_details.cache_write_tokens"]),
        ("deepseek.chat", "cache_read_tokens", ["prompt_cache_hit_tokens"]),
        ("groq.chat", "reasoning_tokens", ["completion_tokens_details.reasoning_tokens"]),
        (
            "anthropic.messages",
            "input_tokens",
            ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"],
        ),
        ("anthropic.messages", "cache_write_5m_tokens", ["cache_creation.ephemeral_5m_input_tokens"]),
        ("anthropic.messages", "web_searches", ["server_tool_use.web_search_requests"]),
        ("aws.converse", "input_tokens", ["inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"]),
        ("cohere.chat", "input_tokens", ["billed_units.input_tokens"]),
    ):
        assert heard(shape, unit) == sum(told(shape, "usage", *field.split(".")) for field in fields), (shape, unit)
    for unit, fields in (
        ("input_tokens", ["promptTokenCount", "toolUsePromptTokenCount"]),
        ("output_tokens", ["candidatesTokenCount", "thoughtsTokenCount"]),
        ("reasoning_tokens", ["thoughtsTokenCount"]),
        ("cache_read_tokens", ["cachedContentTokenCount"]),
        ("input_tool_tokens", ["toolUsePromptTokenCount"]),
    ):
        found = heard("google.usageMetadata", unit)
        assert found == sum(told("google.usageMetadata", "usageMetadata", field) for field in fields), unit


def _at(value: Any, path: tuple[str, ...]) -> int:
    for name in path:
        value = (value or {}).get(name)
    return value or 0


CHAT = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
PLAIN = {"input_tokens": 100, "output_tokens": 20}

GOLDEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai chat": (
        {
            "model": "gpt-4o-2024-08-06",
            "service_tier": "default",
            "usage": {
                **CHAT,
                "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 10, "cache_write_tokens": 6},
                "completion_tokens_details": {
                    "reasoning_tokens": 8,
                    "audio_tokens": 4,
                    "accepted_prediction_tokens": 3,
                    "rejected_prediction_tokens": 5,
                },
            },
        },
        {
            "usage": {
                **PLAIN,
                "cache_read_tokens": 64,
                "cache_write_tokens": 6,
                "input_audio_tokens": 10,
                "reasoning_tokens": 8,
                "output_audio_tokens": 4,
            },
            "model": "gpt-4o-2024-08-06",
            "service_tier": "standard",
        },
    ),
    "the usage object alone": (CHAT, {"usage": PLAIN}),
    "nulls within details": (
        {"usage": {**CHAT, "prompt_tokens_details": {"cached_tokens": None, "audio_tokens": None}}},
        {"usage": PLAIN},
    ),
    "details that are null": (
        {"usage": {**CHAT, "prompt_tokens_details": None, "completion_tokens_details": None}},
        {"usage": PLAIN},
    ),
    "embeddings": (
        {"model": "text-embedding-3-small", "usage": {"prompt_tokens": 8, "total_tokens": 8}},
        {"usage": {"input_tokens": 8, "output_tokens": 0}, "model": "text-embedding-3-small"},
    ),
    "gemini behind openai's API leaves thinking to the total": (
        {"model": "gemini-2.5-pro", "usage": {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}},
        {"usage": {"input_tokens": 35, "output_tokens": 74}, "model": "gemini-2.5-pro"},
    ),
    "reasoning above the completion, within the total": (
        {
            "usage": {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 141,
                "completion_tokens_details": {"reasoning_tokens": 100},
            }
        },
        {"usage": {"input_tokens": 32, "output_tokens": 109, "reasoning_tokens": 100}},
    ),
    "openai responses with tools": (
        {
            "model": "gpt-5",
            "service_tier": "flex",
            "output": [
                {"type": "web_search_call", "action": {"type": "search"}},
                {"type": "web_search_call", "action": {"type": "open_page"}},
                {"type": "web_search_call"},
                {"type": "file_search_call"},
                {"type": "message"},
            ],
            "usage": {
                **PLAIN,
                "input_tokens_details": {"cached_tokens": 50},
                "output_tokens_details": {"reasoning_tokens": 7},
                "total_tokens": 120,
            },
        },
        {
            "usage": {
                **PLAIN,
                "cache_read_tokens": 50,
                "reasoning_tokens": 7,
                "web_searches": 2,
                "file_searches": 1,
            },
            "model": "gpt-5",
            "service_tier": "flex",
        },
    ),
    "openai realtime": (
        {
            "type": "response.done",
            "response": {
                "usage": {
                    **PLAIN,
                    "total_tokens": 120,
                    "input_token_details": {
                        "text_tokens": 40,
                        "audio_tokens": 60,
                        "cached_tokens": 64,
                        "cached_tokens_details": {"text_tokens": 14, "audio_tokens": 50},
                    },
                    "output_token_details": {"text_tokens": 5, "audio_tokens": 15},
                }
            },
        },
        {
            "usage": {
                **PLAIN,
                "cache_read_tokens": 64,
                "cache_read_audio_tokens": 50,
                "input_audio_tokens": 10,
                "output_audio_tokens": 15,
            }
        },
    ),
    "openai images": (
        {
            "usage": {
                "input_tokens": 50,
                "output_tokens": 1056,
                "total_tokens": 1106,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens_details": {"image_tokens": 1056, "text_tokens": 0},
            }
        },
        {
            "usage": {
                "input_tokens": 50,
                "output_tokens": 1056,
                "input_image_tokens": 40,
                "output_image_tokens": 1056,
            }
        },
    ),
    "openai transcription by the second": (
        {"usage": {"type": "duration", "seconds": 9.125}},
        {"usage": {"audio_seconds": Decimal("9.125")}},
    ),
    "azure names the model, not the deployment": (
        {"model": "gpt-4o-2024-08-06", "usage": CHAT},
        {"usage": PLAIN, "model": "gpt-4o-2024-08-06"},
    ),
    "anthropic: the cache comes on top": (
        {
            "model": "claude-sonnet-4-5-20250929",
            "usage": {
                "input_tokens": 3,
                "cache_read_input_tokens": 2000,
                "cache_creation_input_tokens": 300,
                "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
                "output_tokens": 61,
                "output_tokens_details": {"thinking_tokens": 33},
                "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 9},
                "service_tier": "batch",
            },
        },
        {
            "usage": {
                "input_tokens": 2303,
                "output_tokens": 61,
                "cache_read_tokens": 2000,
                "cache_write_tokens": 300,
                "cache_write_5m_tokens": 200,
                "cache_write_1h_tokens": 100,
                "reasoning_tokens": 33,
                "web_searches": 2,
            },
            "model": "claude-sonnet-4-5-20250929",
            "service_tier": "batch",
        },
    ),
    "anthropic without anything cached": (
        {"usage": {"input_tokens": 100, "output_tokens": 20, "speed": "fast", "service_tier": "standard"}},
        {"usage": PLAIN, "service_tier": "fast"},
    ),
    "anthropic: a compaction is not in the totals": (
        {
            "model": "claude-opus-4-8",
            "usage": {
                "input_tokens": 23000,
                "output_tokens": 1000,
                "iterations": [
                    {"type": "compaction", "input_tokens": 180000, "output_tokens": 3500},
                    {"type": "message", "input_tokens": 23000, "output_tokens": 1000},
                ],
            },
        },
        {"usage": {"input_tokens": 203000, "output_tokens": 4500}, "model": "claude-opus-4-8"},
    ),
    "anthropic: each round is paid, though the totals have the input of the first alone": (
        {
            "usage": {
                **PLAIN,
                "iterations": [
                    {"type": "message", "input_tokens": 100, "output_tokens": 5},
                    {"type": "message", "input_tokens": 105, "cache_read_input_tokens": 7, "output_tokens": 15},
                ],
            }
        },
        {"usage": {"input_tokens": 212, "output_tokens": 20, "cache_read_tokens": 7}},
    ),
    "gemini's tool handed over a picture": (
        {
            "usageMetadata": {
                "promptTokenCount": 5,
                "candidatesTokenCount": 5,
                "toolUsePromptTokenCount": 30,
                "toolUsePromptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 10},
                    {"modality": "IMAGE", "tokenCount": 20},
                ],
            }
        },
        {"usage": {"input_tokens": 35, "output_tokens": 5, "input_tool_tokens": 10, "input_image_tokens": 20}},
    ),
    "anthropic: an advisor of another model has its own units": (
        {
            "model": "claude-sonnet-5",
            "usage": {
                **PLAIN,
                "iterations": [
                    {"type": "message", **PLAIN},
                    {
                        "type": "advisor_message",
                        "model": "claude-opus-4-8",
                        "input_tokens": 5,
                        "cache_read_input_tokens": 7,
                        "output_tokens": 3,
                    },
                ],
            },
        },
        {
            "usage": {**PLAIN, "other_model_input_tokens": 12, "other_model_output_tokens": 3},
            "model": "claude-sonnet-5",
        },
    ),
    "anthropic's body from bedrock": (
        {"usage": {"input_tokens": 90, "cache_read_input_tokens": 10, "output_tokens": 20}},
        {"usage": {**PLAIN, "cache_read_tokens": 10}},
    ),
    "anthropic's body from azure": (
        {"usage": {"input_tokens": 90, "cache_read_input_tokens": 10, "output_tokens": 20}},
        {"usage": {**PLAIN, "cache_read_tokens": 10}},
    ),
    "gemini": (
        {
            "modelVersion": "gemini-2.5-pro",
            "usageMetadata": {
                "promptTokenCount": 345,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 47},
                    {"modality": "DOCUMENT", "tokenCount": 258},
                    {"modality": "AUDIO", "tokenCount": 30},
                    {"modality": "VIDEO", "tokenCount": 10},
                ],
                "cachedContentTokenCount": 182,
                "cacheTokensDetails": [
                    {"modality": "DOCUMENT", "tokenCount": 172},
                    {"modality": "AUDIO", "tokenCount": 10},
                ],
                "candidatesTokenCount": 51,
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 40}],
                "thoughtsTokenCount": 9,
                "toolUsePromptTokenCount": 100,
                "totalTokenCount": 505,
                "trafficType": "ON_DEMAND_FLEX",
            },
        },
        {
            "usage": {
                "input_tokens": 445,
                "output_tokens": 60,
                "cache_read_tokens": 182,
                "cache_read_image_tokens": 172,
                "cache_read_audio_tokens": 10,
                "input_image_tokens": 86,
                "input_audio_tokens": 20,
                "input_video_tokens": 10,
                "input_tool_tokens": 100,
                "output_image_tokens": 40,
                "reasoning_tokens": 9,
            },
            "model": "gemini-2.5-pro",
            "service_tier": "flex",
        },
    ),
    "gemini that only thought": (
        {
            "modelVersion": "gemini-2.5-pro",
            "usageMetadata": {"promptTokenCount": 15, "thoughtsTokenCount": 2, "totalTokenCount": 17},
        },
        {"usage": {"input_tokens": 15, "output_tokens": 2, "reasoning_tokens": 2}, "model": "gemini-2.5-pro"},
    ),
    "gemini embeddings": (
        {
            "usageMetadata": {
                "promptTokenCount": 11,
                "promptTokenDetails": [{"modality": "TEXT", "tokenCount": 11}],
            }
        },
        {"usage": {"input_tokens": 11, "output_tokens": 0}},
    ),
    "cohere bills other tokens than it counts": (
        {
            "usage": {
                "billed_units": {"input_tokens": 13, "output_tokens": 61.0},
                "tokens": {"input_tokens": 542, "output_tokens": 63},
                "cached_tokens": 500,
            }
        },
        {"usage": {"input_tokens": 13, "output_tokens": 61}},
    ),
    "cohere embeds images": (
        {"meta": {"billed_units": {"input_tokens": 4, "image_tokens": 96, "images": 2}}},
        {"usage": {"input_tokens": 100, "input_image_tokens": 96, "images": 2}},
    ),
    "cohere reranks": (
        {"meta": {"billed_units": {"search_units": 1.0}}},
        {"usage": {"search_units": 1}},
    ),
    "bedrock converse": (
        {
            "serviceTier": {"type": "priority"},
            "usage": {
                "inputTokens": 3,
                "outputTokens": 61,
                "totalTokens": 2435,
                "cacheReadInputTokens": 2074,
                "cacheReadInputTokenCount": 2074,
                "cacheWriteInputTokens": 297,
                "cacheWriteInputTokenCount": 297,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 200}, {"ttl": "5m", "inputTokens": 97}],
                "serverToolUsage": {},
            },
        },
        {
            "usage": {
                "input_tokens": 2374,
                "output_tokens": 61,
                "cache_read_tokens": 2074,
                "cache_write_tokens": 297,
                "cache_write_5m_tokens": 97,
                "cache_write_1h_tokens": 200,
            },
            "service_tier": "priority",
        },
    ),
    "mistral": (
        {"model": "mistral-large-latest", "usage": {**CHAT, "num_cached_tokens": 64}},
        {"usage": {**PLAIN, "cache_read_tokens": 64}, "model": "mistral-large-latest"},
    ),
    "mistral reads pages": (
        {"model": "mistral-ocr-latest", "usage_info": {"pages_processed": 3, "doc_size_bytes": 4096}},
        {"usage": {"pages": 3}, "model": "mistral-ocr-latest"},
    ),
    "mistral hears seconds, whose tokens are no output": (
        {
            "model": "voxtral-mini-latest",
            "usage": {
                "prompt_audio_seconds": 203,
                "prompt_tokens": 4,
                "completion_tokens": 635,
                "total_tokens": 3264,
            },
        },
        {
            "usage": {"input_tokens": 4, "output_tokens": 635, "audio_seconds": 203},
            "model": "voxtral-mini-latest",
        },
    ),
    "groq's times are no usage": (
        {
            "model": "openai/gpt-oss-120b",
            "service_tier": "on_demand",
            "usage": {**CHAT, "queue_time": 0.2, "prompt_time": 0.1, "completion_time": 0.3, "total_time": 0.4},
        },
        {"usage": PLAIN, "model": "openai/gpt-oss-120b", "service_tier": "standard"},
    ),
    "groq's stream": (
        {"model": "llama-3.3-70b-versatile", "x_groq": {"id": "req_1", "usage": CHAT}},
        {"usage": PLAIN, "model": "llama-3.3-70b-versatile"},
    ),
    "deepseek": (
        {
            "model": "deepseek-chat",
            "usage": {**CHAT, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        },
        {"usage": {**PLAIN, "cache_read_tokens": 64}, "model": "deepseek-chat"},
    ),
    "openrouter says what it charged": (
        {
            "model": "anthropic/claude-sonnet-4.5",
            "usage": {
                **CHAT,
                "cost": 0.000102,
                "cost_details": {"upstream_inference_cost": None},
                "is_byok": False,
                "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 5, "video_tokens": 6},
                "server_tool_use": {"web_search_requests": 1},
            },
        },
        {
            "usage": {**PLAIN, "cache_write_tokens": 5, "input_video_tokens": 6, "web_searches": 1},
            "model": "anthropic/claude-sonnet-4.5",
            "reported_amount": "0.000102",
            "reported_currency": "USD",
        },
    ),
    "openrouter speaks as anthropic does": (
        {"usage": {"input_tokens": 90, "cache_read_input_tokens": 10, "output_tokens": 20, "cost": 0.5}},
        {"usage": {**PLAIN, "cache_read_tokens": 10}, "reported_amount": "0.5", "reported_currency": "USD"},
    ),
    "openrouter with a key of one's own": (
        {"usage": {**CHAT, "cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.01}}},
        {"usage": PLAIN, "reported_amount": "0.01", "reported_currency": "USD"},
    ),
    "openrouter's fee beside a key of one's own": (
        {"usage": {**CHAT, "cost": 0.0005, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.01}}},
        {"usage": PLAIN, "reported_amount": "0.0105", "reported_currency": "USD"},
    ),
    "a key of one's own, and nobody says what it cost": (
        {"usage": {**CHAT, "cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}},
        {"usage": PLAIN},
    ),
    "a cost with the debris of a float": (
        {"usage": {**CHAT, "cost": 1.1165000000000002e-05}},
        {"usage": PLAIN, "reported_amount": "0.000011165", "reported_currency": "USD"},
    ),
    "otel, new names": (
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2024-08-06",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.cache_read.input_tokens": 64,
            "gen_ai.usage.cache_creation.input_tokens": 6,
            "gen_ai.usage.reasoning.output_tokens": 7,
            "openai.response.service_tier": "priority",
        },
        {
            "usage": {**PLAIN, "cache_read_tokens": 64, "cache_write_tokens": 6, "reasoning_tokens": 7},
            "model": "gpt-4o-2024-08-06",
            "service_tier": "priority",
        },
    ),
    "otel, old names": (
        {"gen_ai.system": "openai", "gen_ai.usage.prompt_tokens": 100, "gen_ai.usage.completion_tokens": 20},
        {"usage": PLAIN},
    ),
    "otel, names of instrumentations from before the convention had any": (
        {
            "gen_ai.system": "anthropic",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.cache_read_input_tokens": 64,
            "gen_ai.usage.cache_creation_input_tokens": 6,
            "gen_ai.usage.details.reasoning_tokens": 7,
        },
        {"usage": {**PLAIN, "cache_read_tokens": 64, "cache_write_tokens": 6, "reasoning_tokens": 7}},
    ),
    "otel, OTLP's list of pairs with numbers as text": (
        {
            "attributes": [
                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "100"}},
                {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "20"}},
                {"key": "gen_ai.response.model", "value": {"stringValue": "claude-sonnet-4-5"}},
            ]
        },
        {"usage": PLAIN, "model": "claude-sonnet-4-5"},
    ),
    "twilio": (
        {"num_segments": "3", "num_media": "0", "price": "-0.02490", "price_unit": "usd", "direction": "outbound-api"},
        {"usage": {"segments": 3}, "reported_amount": "0.0249", "reported_currency": "USD"},
    ),
    "twilio, the price is not known yet": (
        {"num_segments": "1", "num_media": "0", "price": None, "price_unit": "USD"},
        {"usage": {"segments": 1}},
    ),
    "twilio with a picture": (
        {"num_segments": "1", "num_media": "2", "price": None, "price_unit": "USD"},
        {"usage": {"media_messages": 1}},
    ),
    "exa searches": (
        {
            "resolvedSearchType": "neural",
            "results": [{"id": str(number)} for number in range(25)],
            "costDollars": {"total": 0.022},
        },
        {
            "usage": {"requests": 1, "extra_results": 15},
            "model": "neural",
            "reported_amount": "0.022",
            "reported_currency": "USD",
        },
    ),
    "exa answers": (
        {"answer": "", "costDollars": {"total": 0.005}},
        {"usage": {"requests": 1}, "model": "answer", "reported_amount": "0.005", "reported_currency": "USD"},
    ),
    "exa fetches": (
        {
            "results": [{"summary": "s"}, {"text": "t"}],
            "statuses": [{"status": "success"}, {"status": "success"}, {"status": "error"}],
            "costDollars": {"total": 0.003},
        },
        {
            "usage": {"pages": 2, "summaries": 1},
            "model": "contents",
            "reported_amount": "0.003",
            "reported_currency": "USD",
        },
    ),
    "apollo": ({"credits_consumed": 2, "matches": []}, {"usage": {"credits": 2}}),
    "apollo found nobody": ({"credits_consumed": 0}, {"usage": {"requests": 1}}),
    "openai responses with a container, images and their tokens": (
        {
            "model": "gpt-5",
            "output": [
                {"type": "code_interpreter_call", "container_id": "cntr_1"},
                {"type": "code_interpreter_call", "container_id": "cntr_1"},
                {"type": "shell_call", "environment": {"type": "container_reference", "container_id": "cntr_2"}},
                {"type": "shell_call", "environment": {"type": "local"}},
                {"type": "image_generation_call"},
            ],
            "tool_usage": {
                "image_gen": {"input_tokens": 30, "output_tokens": 1056, "total_tokens": 1086},
                "web_search": {"num_requests": 0},
            },
            "usage": {**PLAIN, "total_tokens": 120},
        },
        {
            "usage": {
                **PLAIN,
                "code_executions": 2,
                "other_model_input_tokens": 30,
                "other_model_output_tokens": 1056,
            },
            "model": "gpt-5",
        },
    ),
    "openai responses with an image whose tokens it does not say": (
        {"model": "gpt-5", "output": [{"type": "image_generation_call"}], "usage": PLAIN},
        {"usage": {**PLAIN, "images": 1}, "model": "gpt-5"},
    ),
    "cached audio without a split: the cache holds text first": (
        {"usage": {**CHAT, "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 50}}},
        {"usage": {**PLAIN, "cache_read_tokens": 64, "cache_read_audio_tokens": 14, "input_audio_tokens": 36}},
    ),
    "all of several kinds was cached": (
        {
            "usage": {
                **CHAT,
                "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 50, "image_tokens": 20},
            }
        },
        {
            "usage": {
                **PLAIN,
                "cache_read_tokens": 100,
                "cache_read_audio_tokens": 50,
                "cache_read_image_tokens": 20,
            }
        },
    ),
    "litellm's cache beside the prompt, which includes it": (
        {
            "model": "claude-sonnet-4-5",
            "usage": {
                **CHAT,
                "cache_read_input_tokens": 64,
                "cache_creation_input_tokens": 16,
                "prompt_tokens_details": {
                    "cached_tokens": 64,
                    "cache_creation_tokens": 16,
                    "cache_creation_token_details": {"ephemeral_5m_input_tokens": 6, "ephemeral_1h_input_tokens": 10},
                },
            },
        },
        {
            "usage": {
                **PLAIN,
                "cache_read_tokens": 64,
                "cache_write_tokens": 16,
                "cache_write_5m_tokens": 6,
                "cache_write_1h_tokens": 10,
            },
            "model": "claude-sonnet-4-5",
        },
    ),
    "xai: reasoning on top, sources, tools and its cost": (
        {
            "model": "grok-4",
            "usage": {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 141,
                "completion_tokens_details": {"reasoning_tokens": 100},
                "num_sources_used": 4,
                "cost_in_usd_ticks": 37756000,
                "num_server_side_tools_used": 8,
                "server_side_tool_usage_details": {
                    "web_search_calls": 2,
                    "x_search_calls": 1,
                    "code_interpreter_calls": 1,
                    "file_search_calls": 1,
                    "mcp_calls": 3,
                },
            },
        },
        {
            "usage": {
                "input_tokens": 32,
                "output_tokens": 109,
                "reasoning_tokens": 100,
                "extra_results": 4,
                "web_searches": 3,
                "code_executions": 1,
                "file_searches": 1,
            },
            "model": "grok-4",
            "reported_amount": "0.0037756",
            "reported_currency": "USD",
        },
    ),
    "perplexity": (
        {
            "model": "sonar-pro",
            "usage": {
                **CHAT,
                "search_context_size": "low",
                "cost": {
                    "input_tokens_cost": 0.0003,
                    "output_tokens_cost": 0.0003,
                    "request_cost": 0.006,
                    "total_cost": 0.0066,
                },
            },
        },
        {
            "usage": {**PLAIN, "requests": 1},
            "model": "sonar-pro",
            "reported_amount": "0.0066",
            "reported_currency": "USD",
        },
    ),
    "perplexity researches: citations, thinking and searches come on top": (
        {
            "model": "sonar-deep-research",
            "usage": {
                "prompt_tokens": 33,
                "completion_tokens": 7163,
                "total_tokens": 7196,
                "citation_tokens": 19028,
                "num_search_queries": 18,
                "reasoning_tokens": 73997,
            },
        },
        {
            "usage": {
                "input_tokens": 19061,
                "input_tool_tokens": 19028,
                "output_tokens": 81160,
                "reasoning_tokens": 73997,
                "web_searches": 18,
            },
            "model": "sonar-deep-research",
        },
    ),
    "perplexity's agent": (
        {
            "model": "openai/gpt-5.2",
            "usage": {
                **PLAIN,
                "total_tokens": 120,
                "input_tokens_details": {"cache_read_input_tokens": 10, "cache_creation_input_tokens": 4},
                "tool_calls_details": {"search_web": {"invocation": 2}, "fetch_url": {"invocation": 1}},
                "cost": {"currency": "USD", "total_cost": 0.012},
            },
        },
        {
            "usage": {
                **PLAIN,
                "cache_read_tokens": 10,
                "cache_write_tokens": 4,
                "web_searches": 2,
                "web_requests": 1,
            },
            "model": "openai/gpt-5.2",
            "reported_amount": "0.012",
            "reported_currency": "USD",
        },
    ),
    "anthropic: computed in the United States": (
        {"usage": {**PLAIN, "service_tier": "standard", "inference_geo": "us"}},
        {"usage": PLAIN, "service_tier": "standard-us"},
    ),
    "anthropic: a batch, computed anywhere": (
        {"usage": {**PLAIN, "service_tier": "batch", "inference_geo": "global"}},
        {"usage": PLAIN, "service_tier": "batch"},
    ),
    "anthropic: lifetimes of a cache write are all zero, so they say nothing": (
        {
            "usage": {
                **PLAIN,
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            }
        },
        {"usage": {"input_tokens": 105, "output_tokens": 20, "cache_write_tokens": 5}},
    ),
    "gemini 3 is charged by each query that it asked": (
        {
            "modelVersion": "gemini-3-pro-preview",
            "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "", "b", "a"]}}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 5, "totalTokenCount": 10},
        },
        {"usage": {"input_tokens": 5, "output_tokens": 5, "web_searches": 2}, "model": "gemini-3-pro-preview"},
    ),
    "gemini 3, the queries counted already": (
        {
            "modelVersion": "gemini-3-pro-preview",
            "candidates": [{"groundingMetadata": {"webSearchQueries": 2}}, {"finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 5, "totalTokenCount": 10},
        },
        {"usage": {"input_tokens": 5, "output_tokens": 5, "web_searches": 2}, "model": "gemini-3-pro-preview"},
    ),
    "gemini 2 is charged by the prompt, however many queries": (
        {
            "modelVersion": "models/gemini-2.5-flash",
            "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 5, "totalTokenCount": 10},
        },
        {"usage": {"input_tokens": 5, "output_tokens": 5, "web_searches": 1}, "model": "gemini-2.5-flash"},
    ),
    "gemini looked at a map": (
        {
            "modelVersion": "gemini-2.5-flash",
            "candidates": [{"groundingMetadata": {"groundingChunks": [{"maps": {"title": "a"}}, {"maps": {}}]}}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 5, "totalTokenCount": 10},
        },
        {"usage": {"input_tokens": 5, "output_tokens": 5, "search_units": 1}, "model": "gemini-2.5-flash"},
    ),
    "gemini's cached audio without a split": (
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 90}],
                "cachedContentTokenCount": 60,
                "candidatesTokenCount": 5,
            }
        },
        {
            "usage": {
                "input_tokens": 100,
                "output_tokens": 5,
                "cache_read_tokens": 60,
                "cache_read_audio_tokens": 50,
                "input_audio_tokens": 40,
            }
        },
    ),
    "openai's assistants spell the details of a chat in the singular": (
        {
            "usage": {
                **CHAT,
                "prompt_token_details": {"cached_tokens": 80},
                "completion_token_details": {"reasoning_tokens": 7},
            }
        },
        {"usage": {**PLAIN, "cache_read_tokens": 80, "reasoning_tokens": 7}},
    ),
    "what is said of a cache beside its tokens": (
        {
            "usage": {
                **CHAT,
                "cache_hit": True,
                "cache_discount": 0.02,
                "cached_prompt_text_tokens": 64,
                "prompt_tokens_details": {"cached_tokens": 64, "cache_type": "ephemeral", "cache_ttl": 300},
            }
        },
        {"usage": {**PLAIN, "cache_read_tokens": 64}},
    ),
    "codex puts the cache beside the input, which includes it": (
        {"input_tokens": 100, "cached_input_tokens": 80, "output_tokens": 20, "total_tokens": 120},
        {"usage": {**PLAIN, "cache_read_tokens": 80}},
    ),
    "langchain": (
        {
            "usage": {
                **PLAIN,
                "total_tokens": 120,
                "input_token_details": {"audio": 10, "cache_creation": 5, "cache_read": 64},
                "output_token_details": {"audio": 4, "reasoning": 8},
            }
        },
        {
            "usage": {
                **PLAIN,
                "cache_read_tokens": 64,
                "cache_write_tokens": 5,
                "input_audio_tokens": 10,
                "reasoning_tokens": 8,
                "output_audio_tokens": 4,
            }
        },
    ),
    "langchain's message of Claude: lifetimes in the place of their sum": (
        {
            "usage_metadata": {
                **PLAIN,
                "total_tokens": 120,
                "input_token_details": {
                    "cache_read": 64,
                    "cache_creation": 0,
                    "ephemeral_5m_input_tokens": 5,
                    "ephemeral_1h_input_tokens": 6,
                },
            },
            "response_metadata": {"model_name": "claude-sonnet-4-5-20250929", "stop_reason": "end_turn"},
        },
        {
            "usage": {
                **PLAIN,
                "cache_read_tokens": 64,
                "cache_write_tokens": 11,
                "cache_write_5m_tokens": 5,
                "cache_write_1h_tokens": 6,
            },
            "model": "claude-sonnet-4-5-20250929",
        },
    ),
    "langchain names the tier in the details": (
        {
            "usage": {
                **PLAIN,
                "input_token_details": {"flex_cache_read": 64, "flex": 36},
                "output_token_details": {"flex_reasoning": 8, "flex": 12},
            }
        },
        {"usage": {**PLAIN, "cache_read_tokens": 64, "reasoning_tokens": 8}, "service_tier": "flex"},
    ),
    "langsmith's run": (
        {**CHAT, "prompt_token_details": {"cache_read": 64}, "completion_token_details": {"reasoning": 8}},
        {"usage": {**PLAIN, "cache_read_tokens": 64, "reasoning_tokens": 8}},
    ),
    "vercel's AI SDK 5": (
        {
            "usage": {
                "inputTokens": 100,
                "outputTokens": 20,
                "totalTokens": 120,
                "reasoningTokens": 7,
                "cachedInputTokens": 80,
            },
            "response": {"modelId": "gpt-5-2025-08-07"},
        },
        {"usage": {**PLAIN, "cache_read_tokens": 80, "reasoning_tokens": 7}, "model": "gpt-5-2025-08-07"},
    ),
    "vercel's AI SDK 5 of xAI, whose total has the reasoning on top": (
        {
            "model": "grok-4-fast",
            "usage": {
                "inputTokens": 555,
                "outputTokens": 190,
                "totalTokens": 1802,
                "reasoningTokens": 1057,
                "cachedInputTokens": 316,
            },
        },
        {
            "usage": {
                "input_tokens": 555,
                "output_tokens": 1247,
                "cache_read_tokens": 316,
                "reasoning_tokens": 1057,
            },
            "model": "grok-4-fast",
        },
    ),
    "vercel's AI SDK 6, which includes the cache for every vendor": (
        {
            "modelId": "claude-sonnet-4-5",
            "usage": {
                "inputTokens": 100,
                "inputTokenDetails": {"noCacheTokens": 10, "cacheReadTokens": 80, "cacheWriteTokens": 10},
                "outputTokens": 20,
                "outputTokenDetails": {"textTokens": 13, "reasoningTokens": 7},
                "totalTokens": 120,
                "cachedInputTokens": 80,
            },
        },
        {
            "usage": {**PLAIN, "cache_read_tokens": 80, "cache_write_tokens": 10, "reasoning_tokens": 7},
            "model": "claude-sonnet-4-5",
        },
    ),
    "vercel's AI SDK without a cache": (
        {
            "usage": {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120},
            "response": {"modelId": "claude-sonnet-4-5"},
        },
        {"usage": PLAIN, "model": "claude-sonnet-4-5"},
    ),
    "openai's chat models that search the web do so before each answer": (
        {"model": "gpt-4o-search-preview-2025-03-11", "usage": CHAT},
        {"usage": {**PLAIN, "search_units": 1}, "model": "gpt-4o-search-preview-2025-03-11"},
    ),
    "openai's chat model that searches, by the name that it has since": (
        {"model": "gpt-5-search-api", "usage": CHAT},
        {"usage": {**PLAIN, "web_searches": 1}, "model": "gpt-5-search-api"},
    ),
    "openrouter counts the searches of such a model itself": (
        {
            "model": "openai/gpt-4o-search-preview",
            "usage": {**CHAT, "cost": 0.03, "server_tool_use": {"web_search_requests": 1}},
        },
        {
            "usage": {**PLAIN, "web_searches": 1},
            "model": "openai/gpt-4o-search-preview",
            "reported_amount": "0.03",
            "reported_currency": "USD",
        },
    ),
    "openai's earlier search tool costs more where the model does not reason": (
        {
            "model": "gpt-4o-mini-2024-07-18",
            "tools": [{"type": "function"}, {"type": "web_search_preview_2025_03_11"}],
            "output": [{"type": "web_search_call", "action": {"type": "search"}}, {"type": "file_search_call"}],
            "usage": PLAIN,
        },
        {"usage": {**PLAIN, "search_units": 1, "file_searches": 1}, "model": "gpt-4o-mini-2024-07-18"},
    ),
    "openai's earlier search tool costs the same where the model reasons": (
        {
            "model": "o4-mini-2025-04-16",
            "tools": [{"type": "web_search_preview"}],
            "output": [{"type": "web_search_call", "action": {"type": "search"}}],
            "usage": PLAIN,
        },
        {"usage": {**PLAIN, "web_searches": 1}, "model": "o4-mini-2025-04-16"},
    ),
    "openai's search tool": (
        {
            "model": "gpt-4o-mini-2024-07-18",
            "tools": [{"type": "web_search"}],
            "output": [{"type": "web_search_call", "action": {"type": "search"}}],
            "usage": PLAIN,
        },
        {"usage": {**PLAIN, "web_searches": 1}, "model": "gpt-4o-mini-2024-07-18"},
    ),
    "bedrock optimized the latency": (
        {"performanceConfig": {"latency": "optimized"}, "usage": {"inputTokens": 100, "outputTokens": 20}},
        {"usage": PLAIN, "service_tier": "latency-optimized"},
    ),
    "bedrock did not": (
        {
            "performanceConfig": {"latency": "standard"},
            "serviceTier": {"type": "default"},
            "usage": {"inputTokens": 100, "outputTokens": 20},
        },
        {"usage": PLAIN, "service_tier": "standard"},
    ),
    "bedrock used tools of its own": (
        {
            "usage": {
                "inputTokens": 100,
                "outputTokens": 20,
                "serverToolUsage": {"webGrounding": {"requests": 2}, "codeInterpreter": 1, "none": 0},
            }
        },
        {"usage": {**PLAIN, "requests": 3}},
    ),
    "twilio failed: one fee, however many segments": (
        {"num_segments": "3", "num_media": "0", "price": None, "status": "failed", "error_code": 30007},
        {"usage": {"requests": 1}, "service_tier": "failed"},
    ),
    "twilio failed before it counted segments": (
        {"num_segments": "0", "num_media": "1", "price": "-0.00100", "price_unit": "USD", "status": "failed"},
        {
            "usage": {"requests": 1},
            "service_tier": "failed",
            "reported_amount": "0.001",
            "reported_currency": "USD",
        },
    ),
    "twilio failed in a way that costs nothing": (
        {"num_segments": "1", "num_media": "0", "price": None, "status": "failed", "error_code": "30450"},
        {"usage": {"requests": 1}, "service_tier": "failed-free"},
    ),
    "twilio did not deliver: charged as sent": (
        {"num_segments": "2", "num_media": "0", "price": None, "status": "undelivered", "error_code": 30008},
        {"usage": {"segments": 2}},
    ),
    "twilio received a picture": (
        {"num_segments": "1", "num_media": "1", "price": None, "status": "received", "direction": "inbound"},
        {"usage": {"media_messages": 1}, "service_tier": "inbound"},
    ),
    "twilio received a text": (
        {"num_segments": "1", "num_media": "0", "price": None, "status": "received", "direction": "inbound"},
        {"usage": {"segments": 1}},
    ),
    "a count that is stated to be zero": (
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
        {"usage": {"input_tokens": 0, "output_tokens": 0}},
    ),
}


@pytest.mark.parametrize(("body", "expected"), GOLDEN.values(), ids=GOLDEN)
def test_golden(body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert reading_of(body)._replace(tells_batches=False) == Reading(**expected)


UNREADABLE: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "no shape"),
    "another thing": ({"usage": {"tokens_used": 5}}, "'tokens_used'"),
    "usage null, as in a stream without it": ({"model": "gpt-4o", "usage": None}, "no shape"),
    "usage an array": ({"usage": [1]}, "usage is an array, not an object"),
    "details an array": ({"usage": {**CHAT, "prompt_tokens_details": [1]}}, "not an object"),
    "a cache in a spelling that nobody knows": (
        {"usage": {**CHAT, "prompt_tokens_details": {"cache_hits": 64}}},
        "cache_hits is 64, and nothing is known of it",
    ),
    "a cache of responses in a spelling that nobody knows": (
        {"usage": {**PLAIN, "cachedTokens": 64}},
        "cachedTokens is 64, and nothing is known of it",
    ),
    "a cache of converse in a spelling that nobody knows": (
        {"usage": {"inputTokens": 3, "outputTokens": 1, "cacheHitTokens": 64}},
        "cacheHitTokens is 64, and nothing is known of it",
    ),
    "two spellings of one cache that disagree": (
        {"usage": {**PLAIN, "input_token_details": {"cached_tokens": 64, "cache_read": 65}}},
        "cached tokens are said to be 64 and 65",
    ),
    "langchain in two tiers": (
        {"usage": {**PLAIN, "input_token_details": {"flex_cache_read": 64, "priority": 36}}},
        "two service tiers",
    ),
    "vercel's AI SDK 5 of Claude": (
        {
            "model": "claude-sonnet-4-5",
            "usage": {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120, "cachedInputTokens": 80},
        },
        "says inputTokens with or without its cache",
    ),
    "vercel's AI SDK 6 whose parts are others": (
        {
            "usage": {
                "inputTokens": 100,
                "inputTokenDetails": {"noCacheTokens": 10, "cacheReadTokens": 80, "cacheWriteTokens": 11},
                "outputTokens": 20,
            }
        },
        "inputTokens is 100, but its parts are 10, 80 and 11",
    ),
    "bedrock's tools without a number": (
        {"usage": {"inputTokens": 3, "outputTokens": 1, "serverToolUsage": {"webGrounding": "yes"}}},
        "webGrounding is a text of 3 characters, not a number",
    ),
    "twilio was told not to send": (
        {"num_segments": "1", "num_media": "0", "price": None, "status": "canceled"},
        "the message was canceled: nothing was sent, and nothing is charged",
    ),
    "a part above its total": (
        {"usage": {**CHAT, "prompt_tokens_details": {"cached_tokens": 101}}},
        "the sub-counts of input_tokens sum to 101, input_tokens is 100",
    ),
    "parts above their total": (
        {"usage": {**CHAT, "completion_tokens_details": {"reasoning_tokens": 15, "audio_tokens": 6}}},
        "the sub-counts of output_tokens sum to 21, output_tokens is 20",
    ),
    "more audio cached than heard": (
        {
            "usage": {
                **PLAIN,
                "input_tokens_details": {
                    "audio_tokens": 1,
                    "cached_tokens": 2,
                    "cached_tokens_details": {"audio_tokens": 2},
                },
            }
        },
        "2 audio tokens came from a cache, of 1 in all",
    ),
    "a total below its parts": ({"usage": {**CHAT, "total_tokens": 119}}, "the total is 119"),
    "no output and no total": ({"usage": {"prompt_tokens": 5}}, "neither the output nor the total"),
    "gemini without its prompt": (
        {"modelVersion": "gemini-2.5-pro", "usageMetadata": {"candidatesTokenCount": 5, "totalTokenCount": 9}},
        "promptTokenCount is missing",
    ),
    "gemini with an empty usage": ({"usageMetadata": {}}, "promptTokenCount is missing"),
    "gemini's stream before its end": ({"usageMetadata": None, "candidates": []}, "no shape"),
    "no prompt": ({"usage": {"prompt_tokens": None, "completion_tokens": 5}}, "prompt_tokens is missing"),
    "negative": ({"usage": {**CHAT, "prompt_tokens": -1}}, "never negative"),
    "a cost below zero": ({"usage": {**CHAT, "cost": -0.5}}, "cost is -0.5; nobody charges less than nothing"),
    "a cost below zero behind one's own key": (
        {"usage": {**CHAT, "cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": -0.5}}},
        "upstream_inference_cost is -0.5; nobody charges less than nothing",
    ),
    "ticks below zero": ({"usage": {**CHAT, "cost_in_usd_ticks": -5}}, "nobody charges less than nothing"),
    "a search that cost less than nothing": (
        {"results": [], "costDollars": {"total": -0.005}},
        "total is -0.005; nobody charges less than nothing",
    ),
    "perplexity paid": (
        {"usage": {**CHAT, "cost": {"total_cost": "-0.1"}}},
        "total_cost is -0.1; nobody charges less than nothing",
    ),
    "true": ({"usage": {**CHAT, "prompt_tokens": True}}, "prompt_tokens is True, not a number"),
    "text": ({"usage": {**CHAT, "prompt_tokens": "many"}}, "a text of 4 characters, not a number"),
    "half a token": ({"usage": {"prompt_tokens": 1.5, "completion_tokens": 1}}, "whole numbers"),
    "too many": ({"usage": {"prompt_tokens": 10**12 + 1, "completion_tokens": 1}}, "the bound"),
    "too fine": ({"usage": {"type": "duration", "seconds": 1e-10}}, "decimal places"),
    "a model that is no text": ({"model": 5, "usage": CHAT}, "model is 5, not text"),
    "a model that is too long": ({"model": "m" * 129, "usage": CHAT}, "too long"),
    "a model with a line break": ({"model": "gpt\n4o", "usage": CHAT}, "control character"),
    "lifetimes that do not add up": (
        {
            "usage": {
                **PLAIN,
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 3},
            }
        },
        "5 tokens written to the cache, but by lifetime 3 and 3",
    ),
    "the beginning of a stream": (
        {"type": "message_start", "message": {"usage": {"input_tokens": 100, "output_tokens": 1}}},
        "no shape",
    ),
    "gemini's total is another": (
        {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 5, "totalTokenCount": 11}},
        "totalTokenCount is 11, but its parts are 10",
    ),
    "gemini without an answer": ({"usageMetadata": {"promptTokenCount": 5}}, "neither"),
    "converse with the cache within": (
        {"usage": {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120, "cacheReadInputTokens": 50}},
        "totalTokens is 120, but its parts are 150 and 20",
    ),
    "cohere without what is billed": (
        {"usage": {"tokens": {"input_tokens": 542, "output_tokens": 63}}},
        "billed_units is missing",
    ),
    "hit and miss": (
        {"usage": {**CHAT, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 60}},
        "prompt_tokens is 100, but its parts are 60 and 60",
    ),
    "a cost that is no number": ({"usage": {**CHAT, "cost": "free"}}, "cost is a text of 4 characters"),
    "a cost beyond belief": ({"usage": {**CHAT, "cost": 10**7}}, "more than anybody charges"),
    "twilio does not know the segments yet": (
        {"num_segments": "0", "num_media": "0", "price": None, "status": "accepted"},
        "not known yet",
    ),
    "a day of twilio": ({"category": "sms", "count": "25", "usage": "30", "price": "0.2"}, "not an object"),
    "a span that fetched": (
        {"gen_ai.operation.name": "fetch_response", "gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 5},
        "that of another span",
    ),
    "the total has tokens that nothing explains": (
        {"model": "gpt-4o", "usage": {**CHAT, "total_tokens": 150}},
        "nothing says what the other 30 are",
    ),
    "tools of which nobody says the kind": (
        {"usage": {**CHAT, "num_server_side_tools_used": 3}},
        "3 tools were used, but only 0",
    ),
    "an image whose tokens do not add up": (
        {"usage": PLAIN, "tool_usage": {"image_gen": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 8}}},
        "image_gen has 8 tokens, but its parts are 3 and 4",
    ),
    "anthropic: totals above their rounds": (
        {"usage": {**PLAIN, "iterations": [{"type": "message", "input_tokens": 100, "output_tokens": 19}]}},
        "output_tokens is 20, but in the rounds of the answer 19",
    ),
    "gemini: a tool's tokens by kind are more than all of them": (
        {
            "usageMetadata": {
                "promptTokenCount": 5,
                "candidatesTokenCount": 5,
                "toolUsePromptTokenCount": 3,
                "toolUsePromptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}],
            }
        },
        "by kind there are 4 tool prompt tokens, of 3 in all",
    ),
    "two counts of one cache": (
        {"usage": {**CHAT, "cache_read_input_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}},
        "cached tokens are said to be 6 and 5",
    ),
    "cached tokens of several kinds without a split": (
        {"usage": {**CHAT, "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 40, "image_tokens": 20}}},
        "does not say of which kind",
    ),
    "queries that are no texts": (
        {
            "candidates": [{"groundingMetadata": {"webSearchQueries": [5]}}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 5},
        },
        "webSearchQueries",
    ),
    "apollo says nothing": ({"person": {"id": "1"}}, "no shape"),
}


@pytest.mark.parametrize(("body", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_says_why(body: Any, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        reading_of(body)
    assert reason in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"3", b"null", b'{"a":' + b"9" * 5000 + b"}", b"[" * 5000])
def test_what_is_no_object_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        read(raw)


@pytest.mark.parametrize("number", ["1e-99999999999999999999", "0e99999999999999999999", "-1e-99999999999999999999"])
def test_an_exponent_that_no_decimal_can_hold_is_unreadable_and_no_crash(number: str) -> None:
    with pytest.raises(Unreadable, match="exponent"):
        read(b'{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":1,"cost":%s}}' % number.encode())
