"""Whoever sends what a vendor answered, under the names that vendors use, gets what the vendor charges."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import pytest

from meterstream.deploy.price_book.second import book_of
from meterstream.processors.rating import vendors
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.price import charge
from meterstream.schema import price_file
from tests import vendor_bodies

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CONVERSE = {"usage": {"inputTokens": 1000, "outputTokens": 100, "totalTokens": 1100}}
CHAT = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


@cache
def book() -> Book:
    return book_of(price_file.shipped())


def charged(provider: str, model: str, body: dict[str, Any], at: datetime = AT, region: str = "") -> Decimal | None:
    """US dollars, with the model that the body names, else the stated one."""
    reading = vendors.read(json.dumps(body).encode())
    rates = book().lookup("t", provider, reading.model or model, at, reading.service_tier, region)
    pico = None if rates is None else charge(reading.usage, rates)
    return None if pico is None else Decimal(pico).scaleb(-12)


@pytest.mark.parametrize(
    ("model", "amount"),
    [
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "0.00495"),  # one region: a tenth above the global endpoint
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "0.00495"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "0.00495"),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "0.0045"),
        ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", "0.0054"),  # a fifth above it in GovCloud
        ("us-gov.anthropic.claude-opus-5-5", "0.0072"),
        ("us-gov.amazon.nova-lite-v1:0", "0.0001008"),
        ("apac.anthropic.claude-sonnet-4-20250514-v1:0", "0.0045"),
        ("amazon.nova-lite-v1:0", "0.000084"),
        ("us.amazon.nova-lite-v1:0", "0.000084"),
        ("eu.amazon.nova-lite-v1:0", "0.0001092"),  # dearer than in the United States
        ("us.meta.llama3-3-70b-instruct-v1:0", "0.000792"),
        ("openai.gpt-oss-120b-1:0", "0.00021"),
        ("us.anthropic.claude-3-5-sonnet-20240620-v1:0", "0.0045"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "0.0045"),
        ("apac.anthropic.claude-3-7-sonnet-20250219-v1:0", "0.0045"),
        ("eu.anthropic.claude-3-haiku-20240307-v1:0", "0.000375"),
        ("anthropic.claude-3-opus-20240229-v1:0", "0.0225"),
        ("us.anthropic.claude-3-5-haiku-20241022-v1:0", "0.0012"),
        ("us-gov.anthropic.claude-3-5-sonnet-20240620-v1:0", "0.0054"),  # a fifth more
        ("us-gov.anthropic.claude-3-haiku-20240307-v1:0", "0.00045"),
        ("amazon.titan-text-express-v1", "0.00026"),
        ("amazon.titan-text-lite-v1", "0.00017"),
    ],
)
def test_a_converse_body_finds_the_price_of_its_model_id(model: str, amount: str) -> None:
    assert charged("aws", model, CONVERSE) == Decimal(amount)


@pytest.mark.parametrize(
    ("model", "region", "amount"),
    [
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", "us-gov-west-1", "0.0054"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "us-gov-west-1", "0.0054"),
        ("anthropic.claude-sonnet-5", "us-gov-east-1", "0.0036"),
        ("anthropic.claude-sonnet-5", "us-east-1", "0.0033"),
        ("us-gov.anthropic.claude-sonnet-5", "us-gov-east-1", "0.0036"),
        ("amazon.nova-pro-v1:0", "us-gov-west-1", "0.001344"),
    ],
)
def test_govcloud_is_told_by_the_region_too(model: str, region: str, amount: str) -> None:
    assert charged("aws", model, CONVERSE, region=region) == Decimal(amount)


@pytest.mark.parametrize(
    ("provider", "model", "amount"),
    [
        ("azure", "gpt-4o-2024-08-06", "0.0035"),
        ("azure", "gpt-4.1-mini", "0.00056"),
        ("openrouter", "anthropic/claude-sonnet-4.5", "0.0045"),
        ("openrouter", "openai/gpt-4o-mini", "0.00021"),
        ("openrouter", "openai/gpt-6-sol-20260922", "0.003"),
        ("openrouter", "deepseek/deepseek-r1:free", "0"),
        ("google", "models/gemini-2.5-pro", "0.00225"),
        ("mistral", "mistral-small-2506", "0.00013"),
        ("groq", "llama-3.3-70b-versatile", "0.000669"),
        ("xai", "grok-4", "0.0045"),
    ],
)
def test_the_model_that_answered_has_a_price(provider: str, model: str, amount: str) -> None:
    assert charged(provider, "a deployment's name", {"model": model, "usage": CHAT}) == Decimal(amount)


AUDIO = {
    "prompt_tokens": 1000,
    "prompt_tokens_details": {"audio_tokens": 600},
    "completion_tokens": 100,
    "completion_tokens_details": {"audio_tokens": 100},
    "total_tokens": 1100,
}


@pytest.mark.parametrize(
    ("provider", "model", "at", "amount"),
    [
        ("openai", "gpt-4o-audio-preview", AT, "0.033"),
        ("openai", "gpt-4o-audio-preview-2025-06-03", AT, "0.033"),
        ("openai", "gpt-4o-audio-preview", datetime(2024, 12, 17, tzinfo=UTC), "0.033"),
        ("openai", "gpt-4o-audio-preview", datetime(2024, 12, 16, 23, 59, 59, tzinfo=UTC), "0.081"),
        ("openai", "gpt-4o-audio-preview-2024-10-01", AT, "0.081"),
        ("openai", "gpt-4o-mini-audio-preview-2024-12-17", AT, "0.00806"),
        ("openai", "gpt-4o-realtime-preview-2024-10-01", AT, "0.082"),
        ("openai", "gpt-4o-realtime-preview", datetime(2024, 12, 16, 23, 59, 59, tzinfo=UTC), "0.082"),
        ("openai", "gpt-4o-realtime-preview", datetime(2024, 12, 17, tzinfo=UTC), "0.034"),
        ("openai", "gpt-4o-realtime-preview-2025-06-03", AT, "0.034"),
        ("azure", "gpt-4o-audio-preview-2024-12-17", AT, "0.033"),
        ("azure", "gpt-4o-mini-audio-preview", AT, "0.00806"),
    ],
)
def test_sound_costs_what_sound_costs(provider: str, model: str, at: datetime, amount: str) -> None:
    assert charged(provider, "", {"model": model, "usage": AUDIO}, at) == Decimal(amount)


@pytest.mark.parametrize(
    ("provider", "model", "at", "size", "amount"),
    [
        ("anthropic", "claude-sonnet-4-20250514", datetime(2025, 8, 11, 23, 59, 59, tzinfo=UTC), 200_001, "0.600003"),
        ("anthropic", "claude-sonnet-4-20250514", datetime(2025, 8, 12, tzinfo=UTC), 200_000, "0.6"),
        ("anthropic", "claude-sonnet-4-20250514", datetime(2025, 8, 12, tzinfo=UTC), 200_001, "1.200006"),
        ("google", "gemini-1.5-pro", datetime(2024, 5, 14, tzinfo=UTC), 128_001, "0.896007"),
        ("google", "gemini-1.5-flash-002", datetime(2024, 8, 11, 23, 59, 59, tzinfo=UTC), 128_001, "0.0896007"),
        ("google", "gemini-1.5-flash-8b", AT, 128_000, "0.0048"),
        ("google", "gemini-1.5-flash-8b", AT, 128_001, "0.009600075"),
        ("google", "claude-sonnet-4@20250514", datetime(2026, 2, 1, tzinfo=UTC), 200_000, "0.6"),
        ("google", "claude-sonnet-4@20250514", datetime(2026, 2, 1, tzinfo=UTC), 200_001, "1.200006"),
        ("google", "claude-sonnet-4", datetime(2026, 2, 1, tzinfo=UTC), 200_001, "1.200006"),
        ("openrouter", "anthropic/claude-sonnet-4", datetime(2026, 2, 1, tzinfo=UTC), 200_001, "1.200006"),
        ("openrouter", "google/gemini-2.5-pro", datetime(2026, 2, 1, tzinfo=UTC), 200_000, "0.25"),
        ("openrouter", "google/gemini-2.5-pro", datetime(2026, 2, 1, tzinfo=UTC), 200_001, "0.5000025"),
        ("openrouter", "google/gemini-2.5-pro", AT, 200_001, "0.5000025"),
        ("xai", "grok-4-0709", AT, 128_000, "0.384"),
        ("xai", "grok-4-0709", AT, 128_001, "0.768006"),
        ("xai", "grok-4-fast", AT, 128_001, "0.0512004"),
        ("xai", "grok-4-1-fast-reasoning", AT, 128_001, "0.0512004"),
    ],
)
def test_long_contexts_cost_more_from_their_day_on(
    provider: str, model: str, at: datetime, size: int, amount: str
) -> None:
    rates = book().lookup("t", provider, model, at)
    assert rates is not None and Decimal(charge({"input_tokens": size}, rates) or 0).scaleb(-12) == Decimal(amount)


@pytest.mark.parametrize(
    ("model", "thoughts", "amount"),
    [
        ("gemini-2.5-flash-preview-04-17", 0, "0.00075"),
        ("gemini-2.5-flash-preview-04-17", 400, "0.00365"),  # all of the output, not the thoughts alone
        ("gemini-2.5-flash-preview-04-17-thinking", 400, "0.00365"),
        ("gemini-2.5-flash-preview-05-20", 400, "0.00365"),
        ("gemini-2.5-flash-preview", 400, "0.00365"),
        ("gemini-2.5-flash-preview:thinking", 0, "0.00365"),
    ],
)
def test_the_first_flash_that_thought_cost_more_when_it_did(model: str, thoughts: int, amount: str) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 1000, "reasoning_tokens": thoughts}
    rates = book().lookup("t", "google", model, datetime(2025, 5, 20, tzinfo=UTC))
    assert rates is not None and Decimal(charge(usage, rates) or 0).scaleb(-12) == Decimal(amount)


@pytest.mark.parametrize(
    ("model", "unit", "before", "after"),
    [
        ("gemini-2.5-flash", "cache_read_tokens", "0.075", "0.03"),
        ("gemini-2.5-flash", "cache_read_audio_tokens", "0.25", "0.1"),
        ("gemini-2.5-flash-preview-09-2025", "cache_read_audio_tokens", "0.25", "0.1"),
        ("gemini-2.5-flash-lite", "cache_read_tokens", "0.025", "0.01"),
        ("gemini-2.5-flash-lite", "cache_read_audio_tokens", "0.125", "0.03"),
        ("gemini-2.5-flash-lite-preview-09-2025", "cache_read_tokens", "0.025", "0.01"),
        ("gemini-2.5-pro", "cache_read_tokens", "0.625", "0.25"),  # a million is above 200,000
    ],
)
def test_what_gemini_reads_from_a_cache_became_cheaper(model: str, unit: str, before: str, after: str) -> None:
    """Google's page of 2025-10-02 has the first rates, that of 2025-10-31 the second ones."""
    usage = dict.fromkeys(("input_tokens", "cache_read_tokens", unit), 10**6)
    day = datetime(2025, 10, 31, tzinfo=UTC)
    for at, amount in ((datetime(2025, 9, 25, tzinfo=UTC), before), (day - MICROSECOND, before), (day, after)):
        rates = book().lookup("t", "google", model, at)
        assert rates is not None and Decimal(charge(usage, rates) or 0).scaleb(-12) == Decimal(amount)


@pytest.mark.parametrize(
    ("provider", "model", "at", "amount"),
    [
        ("google", "gemini-3-pro-preview", datetime(2025, 11, 18, tzinfo=UTC), "0"),
        ("google", "gemini-3-pro-preview", datetime(2026, 1, 5, tzinfo=UTC), "0.014"),
        ("openai", "gpt-5.6-sol", datetime(2026, 7, 9, tzinfo=UTC), "0.01"),
        ("openai", "gpt-5.6-sol", datetime(2026, 8, 21, tzinfo=UTC), "0.01"),
    ],
)
def test_searches_have_a_price_from_the_first_day(provider: str, model: str, at: datetime, amount: str) -> None:
    """Google says from which day on it charges for them; a later change of the tokens' rates is none of theirs."""
    rates = book().lookup("t", provider, model, at)
    assert rates is not None
    pico = charge({"web_searches": 1}, rates)
    assert pico is not None and Decimal(pico).scaleb(-12) == Decimal(amount)


def test_a_past_rate_holds_until_its_last_second() -> None:
    body = {"model": "mistral-large-4", "usage": CHAT}
    assert charged("mistral", "", body, datetime(2026, 10, 19, 23, 59, 59, tzinfo=UTC)) == Decimal("0.000889")
    assert charged("mistral", "", body, datetime(2026, 10, 20, tzinfo=UTC)) == Decimal("0.001778")
    assert charged("mistral", "", body, datetime(2026, 10, 29, tzinfo=UTC)) == Decimal("0.00091")


@pytest.mark.parametrize(
    ("body", "amount"),
    [
        ({"resolvedSearchType": "neural", "results": [{}] * 25, "costDollars": {"total": 0.022}}, "0.022"),
        ({"answer": "", "costDollars": {"total": 0.005}}, "0.005"),
        ({"statuses": [{"status": "success"}] * 3, "results": [], "costDollars": {"total": 0.003}}, "0.003"),
        ({"searchType": "deep", "results": [{"summary": "s"}], "costDollars": {"total": 0.013}}, "0.013"),
    ],
)
def test_exa_costs_what_exa_says(body: dict[str, Any], amount: str) -> None:
    assert charged("exa", "", body) == Decimal(amount)


def test_a_message_costs_what_its_country_costs() -> None:
    body = {"num_segments": "3", "num_media": "0", "price": "-0.02490", "price_unit": "USD"}
    assert charged("twilio", "", body, region="us") == charged("twilio", "", body, region="US") == Decimal("0.0249")
    assert charged("twilio", "", body) is None, "without a country nobody knows"


@pytest.mark.parametrize(
    ("model", "at", "amount"),
    [
        ("deepseek-v4-pro", datetime(2026, 8, 16, 15, 59, 59, tzinfo=UTC), "0.000522"),
        ("deepseek-v4-pro", datetime(2026, 8, 16, 16, tzinfo=UTC), "0.000858"),
        ("deepseek-v4-pro", datetime(2026, 8, 22, 1, tzinfo=UTC), "0.001716"),  # a Saturday that still had its peak
        ("deepseek-v4-pro", datetime(2026, 8, 23, 1, tzinfo=UTC), "0.000858"),  # a Sunday that had none
        ("deepseek-v4-pro", datetime(2026, 8, 24, 1, tzinfo=UTC), "0.001716"),
        ("deepseek-v4-flash", datetime(2026, 9, 9, 9, 59, 59, tzinfo=UTC), "0.000572"),
        ("deepseek-v4-flash", datetime(2026, 9, 10, 9, 59, 59, tzinfo=UTC), "0.00042"),
        ("deepseek-v4-flash", datetime(2026, 9, 10, 10, tzinfo=UTC), "0.00021"),
        ("deepseek-chat", datetime(2025, 3, 1, 16, 29, 59, tzinfo=UTC), "0.00038"),
        ("deepseek-chat", datetime(2025, 3, 1, 16, 30, tzinfo=UTC), "0.00019"),
        ("deepseek-chat", datetime(2025, 9, 6, 16, 30, tzinfo=UTC), "0.000728"),
    ],
)
def test_deepseeks_hours_and_days(model: str, at: datetime, amount: str) -> None:
    assert charged("deepseek", "", {"model": model, "usage": CHAT}, at) == Decimal(amount)


def test_a_long_context_on_bedrock() -> None:
    model = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
    for size, amount in ((200_000, "0.6765"), (200_001, "1.3447566")):
        body = {"usage": {"inputTokens": size, "outputTokens": 1000, "totalTokens": size + 1000}}
        assert charged("aws", model, body) == Decimal(amount)


# What vendors say they charged, in the recorded answers.

STATED = {
    "b0348": "recorded before OpenAI's cut of 2026-08-21: the price of that time was charged",
    "b1366": "routed to a host that is dearer than the list's",
}
"""Recorded answers whose stated cost is another one, and why."""


def test_what_vendors_say_they_charged() -> None:
    seen = set()
    for recorded in vendor_bodies.recorded():
        try:
            reading = vendors.read(json.dumps(recorded.body).encode())
        except vendors.Unreadable:
            continue
        if reading.reported_amount is None:
            continue
        amount = charged(recorded.vendor or "openrouter", "", recorded.body)
        assert amount is not None, recorded.id
        if (amount == Decimal(reading.reported_amount)) == (recorded.id in STATED):
            pytest.fail(f"{recorded.id}: {amount} here, {reading.reported_amount} stated")
        seen.add(recorded.id)
    assert len(seen) == 6
    assert seen > set(STATED)
