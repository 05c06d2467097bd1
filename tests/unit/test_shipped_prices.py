"""Whoever sends what a vendor answered, under the names that vendors use, gets what the vendor charges."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any

import pytest

from meterstream.deploy.price_book.second import book_of
from meterstream.processors.rating import vendors
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.price import charge
from meterstream.schema import price_file

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
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
        ("apac.anthropic.claude-sonnet-4-20250514-v1:0", "0.0045"),
        ("amazon.nova-lite-v1:0", "0.000084"),
        ("us.amazon.nova-lite-v1:0", "0.000084"),
        ("us.meta.llama3-3-70b-instruct-v1:0", "0.000792"),
        ("openai.gpt-oss-120b-1:0", "0.00021"),
    ],
)
def test_a_converse_body_finds_the_price_of_its_model_id(model: str, amount: str) -> None:
    assert charged("aws", model, CONVERSE) == Decimal(amount)


@pytest.mark.parametrize(
    ("provider", "model", "amount"),
    [
        ("azure", "gpt-4o-2024-08-06", "0.0035"),
        ("azure", "gpt-4.1-mini", "0.00056"),
        ("openrouter", "anthropic/claude-sonnet-4.5", "0.0045"),
        ("openrouter", "openai/gpt-4o-mini", "0.00021"),
        ("openrouter", "openai/gpt-6-sol-20260922", "0.003"),
        ("openrouter", "deepseek/deepseek-r1:free", "0"),
        ("mistral", "mistral-small-2506", "0.00013"),
        ("groq", "llama-3.3-70b-versatile", "0.000669"),
        ("xai", "grok-4", "0.0045"),
    ],
)
def test_the_model_that_answered_has_a_price(provider: str, model: str, amount: str) -> None:
    assert charged(provider, "a deployment's name", {"model": model, "usage": CHAT}) == Decimal(amount)


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
