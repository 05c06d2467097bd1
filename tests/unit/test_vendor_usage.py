"""Events that bring their vendor's body: what the row says, and what becomes of a body that cannot be read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from meterstream.processors.rating.book import Book
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.schema import price_file
from meterstream.schema.catalog import Price
from meterstream.schema.event import EVENT_TYPE, UsageEvent
from meterstream.schema.pack import Row, decode_pack
from meterstream.schema.position import SourcePartition
from meterstream.schema.providers import ALIASES, OTHER_NAMES, provider_of
from tests.oracle.model import expect
from tests.oracle.prices import PriceRow, Prices
from tests.oracle.records import RawRecord
from tests.unit.test_examples import Record
from tests.vendor_bodies import recorded

AT = datetime(2026, 6, 1, tzinfo=UTC)
CHAT = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}


def price(number: int, unit: str, rate: str) -> Price:
    return Price(
        price_id=number,
        revision=1,
        provider="openai",
        model="gpt-4o-2024-08-06",
        unit=unit,
        currency="USD",
        per=1_000_000,
        rate=rate,
        valid_from=AT,
        known_from=AT,
        source="test",
    )


BOOK = Book(
    [price(1, "input_tokens", "2.5"), price(2, "cache_read_tokens", "1.25"), price(3, "output_tokens", "10")], 1
)

ORACLE = Prices(
    [
        PriceRow(None, "openai", "gpt-4o-2024-08-06", unit, "USD", Fraction(rate), 10**6, AT, 1)
        for unit, rate in (("input_tokens", "2.5"), ("cache_read_tokens", "1.25"), ("output_tokens", "10"))
    ]
)


def event(**data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": EVENT_TYPE,
        "id": "order/1",
        "source": "shop",
        "time": AT.isoformat(),
        "tenant": "acme",
        "data": {"provider": "openai", "operation": "chat", **data},
    }


def row_of(given: dict[str, Any], body: bytes | None = None) -> tuple[Row, Rater]:
    """`body`: the bytes of its `vendor_usage`, where they matter."""
    UsageEvent.model_validate(given)
    rater = Rater(Router(1), BOOK)
    outbox = Outbox(SourcePartition(1, 0), start_offset=0, priced=1, rejected=1)
    value = json.dumps(given).encode()
    if body is not None:
        value = value.replace(json.dumps(given["data"]["vendor_usage"]).encode(), body)
        assert body in value
    record = Record(0, int(AT.timestamp() * 1000), None, value, ())
    rater.rate("usage.raw", outbox, [record], is_backfill=False)
    assert not outbox.rejected
    (packed,) = outbox.cut(0)
    (row,) = decode_pack(packed.value).rows
    return row, rater


def attributes_of(row: Row) -> dict[str, Any]:
    return dict(json.loads(row.attributes or "{}"))


def test_the_body_gives_quantities_model_and_tier() -> None:
    body = {
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "usage": {**CHAT, "prompt_tokens_details": {"cached_tokens": 600}},
    }
    row, rater = row_of(event(vendor_usage=body))
    assert (row.pricing, row.currency, row.model) == ("priced", "USD", "gpt-4o-2024-08-06")
    assert row.amount_pico == 400 * 2_500_000 + 600 * 1_250_000 + 10 * 10_000_000
    assert (row.input_tokens, row.cache_read_tokens, row.output_tokens) == (1000, 600, 10)
    assert json.loads(row.vendor_usage or "") == body, "all of it is usage"
    assert attributes_of(row) == {"service_tier": "standard"}
    assert rater.dispositions == {"priced": 1}


def test_the_answers_model_is_priced_and_the_stated_one_is_noted() -> None:
    row, _ = row_of(event(model="our-deployment", vendor_usage={"model": "gpt-4o-2024-08-06", "usage": CHAT}))
    assert (row.model, row.pricing) == ("gpt-4o-2024-08-06", "priced")
    assert attributes_of(row) == {"stated_model": "our-deployment"}


def test_a_body_without_a_model_leaves_the_stated_one() -> None:
    row, _ = row_of(event(model="gpt-4o-2024-08-06", vendor_usage=CHAT))
    assert (row.model, row.pricing, row.attributes) == ("gpt-4o-2024-08-06", "priced", None)


def test_usage_wins_over_the_body() -> None:
    body = {"model": "another", "usage": {**CHAT, "cost": 5}}
    row, _ = row_of(event(model="gpt-4o-2024-08-06", usage={"input_tokens": 1, "output_tokens": 0}, vendor_usage=body))
    assert (row.model, row.input_tokens, row.pricing) == ("gpt-4o-2024-08-06", 1, "priced")
    assert (row.reported_amount, row.attributes) == (None, None)


@pytest.mark.parametrize(
    ("stated", "pricing"), [("gpt-4o-2024-08-06", "priced"), ("claude-sonnet-4-5", "unmetered"), ("", "unmetered")]
)
def test_what_version_5_of_the_ai_sdk_means_is_told_by_the_model(stated: str, pricing: str) -> None:
    usage = {"inputTokens": 1000, "outputTokens": 10, "totalTokens": 1010, "cachedInputTokens": 800}
    row, _ = row_of(event(model=stated, vendor_usage=usage))
    assert (row.pricing, row.cache_read_tokens) == (pricing, 800 if pricing == "priced" else 0)


def test_a_model_that_searches_is_known_by_the_events_name_too() -> None:
    row, _ = row_of(event(model="gpt-4o-search-preview", vendor_usage=CHAT))
    assert (row.pricing, json.loads(row.quantities or "{}")) == ("unpriced", {"search_units": 1})


def test_the_cost_that_the_event_reports_stays() -> None:
    said = {"reported_amount": "0.25", "reported_currency": "EUR"}
    row, _ = row_of(event(model="gpt-4o-2024-08-06", vendor_usage={"usage": {**CHAT, "cost": 5}}, **said))
    assert (row.reported_amount, row.reported_currency) == ("0.25", "EUR")


CLAUDE = {"input_tokens": 1, "output_tokens": 1}


@pytest.mark.parametrize(
    ("stated", "body", "tier", "noted"),
    [
        ("auto", {"service_tier": "priority", "usage": CHAT}, "priority", False),
        ("AUTO", {"usage": {**CLAUDE, "service_tier": "batch"}}, "batch", False),
        ("default", {"service_tier": "flex", "usage": CHAT}, "flex", True),
        ("standard", {"usage": {**CLAUDE, "service_tier": "standard", "speed": "fast"}}, "fast", True),
        ("standard", {"usage": {**CLAUDE, "service_tier": "standard", "inference_geo": "us"}}, "standard-us", True),
        ("priority", {"service_tier": "default", "usage": CHAT}, "standard", True),
        ("batch", {"usage": {**CLAUDE, "service_tier": "standard"}}, "standard", True),
        ("Batch", {"usage": {**CLAUDE, "service_tier": "batch"}}, "batch", False),
        # The body is silent: it names no tier, or cannot name batches.
        ("flex", {"usage": CHAT}, "flex", False),
        ("flex", {"service_tier": "auto", "usage": CHAT}, "flex", False),
        ("auto", {"usage": CHAT}, "auto", False),
        ("batch", {"service_tier": "default", "usage": CHAT}, "batch", False),
        ("batch", {"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "trafficType": "ON_DEMAND"}},
         "batch", False),
        ("batch", {"service_tier": "priority", "usage": CHAT}, "priority", True),
    ],
)  # fmt: skip
def test_the_tier_that_the_answer_was_served_in_wins(stated: str, body: dict[str, Any], tier: str, noted: bool) -> None:
    row, _ = row_of(event(model="m", vendor_usage=body, service_tier=stated))
    attributes = attributes_of(row)
    assert attributes["service_tier"] == tier
    assert attributes.get("stated_service_tier") == (stated if noted else None)


def test_the_reported_cost_stands_beside_ours() -> None:
    row, _ = row_of(event(vendor_usage={"model": "gpt-4o-2024-08-06", "usage": {**CHAT, "cost": 0.0026}}))
    assert row.amount_pico == 2_600_000_000
    assert (row.reported_amount, row.reported_currency) == ("0.0026", "USD")


def test_a_model_without_a_price_is_unpriced_with_its_quantities() -> None:
    row, rater = row_of(event(vendor_usage={"model": "nobody-knows", "usage": CHAT}))
    assert (row.pricing, row.currency, row.amount_pico, row.input_tokens) == ("unpriced", "XXX", None, 1000)
    assert rater.dispositions == {"unpriced": 1}


UNMETERED: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "no shape"),
    "no usage": ({"model": "gpt-4o-2024-08-06", "usage": None}, "no shape"),
    "another thing": ({"usage": {"tokens_used": 5}}, "'tokens_used'"),
    "above its total": (
        {"usage": {**CHAT, "completion_tokens_details": {"reasoning_tokens": 11}}},
        "the sub-counts of output_tokens sum to 11, output_tokens is 10",
    ),
    "negative": ({"usage": {**CHAT, "prompt_tokens": -5}}, "never negative"),
}


@pytest.mark.parametrize(("body", "reason"), UNMETERED.values(), ids=UNMETERED)
def test_what_cannot_be_read_is_kept_unmetered(body: dict[str, Any], reason: str) -> None:
    row, rater = row_of(event(model="gpt-4o-2024-08-06", vendor_usage=body))
    assert (row.pricing, row.currency, row.amount_pico) == ("unmetered", "XXX", None)
    assert (row.input_tokens, row.output_tokens, row.quantities) == (0, 0, None)
    assert reason in attributes_of(row)["unmetered_reason"]
    assert row.model == "gpt-4o-2024-08-06"
    assert json.loads(row.vendor_usage or "") == body
    assert rater.dispositions == {"unmetered": 1}


def test_a_key_that_the_answers_model_makes_too_long_is_unmetered() -> None:
    long = dict.fromkeys(("user_id", "project_id", "api_key_id"), "é" * 256) | {"operation": "é" * 128}
    given = event(vendor_usage={"model": "m" * 127, "usage": CHAT}, **long)
    given["tenant"] = "é" * 128
    row, _ = row_of(given)
    assert (row.pricing, row.model) == ("unpriced", "m" * 127), "2,181 bytes fit"
    given["data"]["vendor_usage"]["model"] = "語" * 128
    row, _ = row_of(given)
    assert (row.pricing, row.model) == ("unmetered", "")
    assert "too long" in attributes_of(row)["unmetered_reason"]


def test_the_body_is_part_of_what_makes_an_event_the_same() -> None:
    def hash_of(prompt: int) -> int:
        usage = {"prompt_tokens": prompt, "completion_tokens": 10}
        return row_of(event(model="asked", vendor_usage={"model": "answered", "usage": usage}))[0].body

    assert hash_of(5) == hash_of(5) != hash_of(6)


def test_every_recorded_body_becomes_a_row_with_its_quantities() -> None:
    for answer in recorded():
        row, rater = row_of(event(vendor_usage=answer.body))
        assert rater.dispositions.keys() <= {"priced", "unpriced"}, answer
        assert row.input_tokens > 0, answer


counts = st.none() | st.integers(-1, 2000) | st.just("7")


@given_any(
    usage=st.fixed_dictionaries(
        {"prompt_tokens": counts},
        optional={
            "completion_tokens": st.integers(0, 500),
            "total_tokens": st.integers(0, 3000),
            "prompt_tokens_details": st.none() | st.fixed_dictionaries({"cached_tokens": st.integers(0, 2000)}),
        },
    ),
    model=st.sampled_from([None, "gpt-4o-2024-08-06", "nobody-knows"]),
    stated=st.sampled_from(["", "gpt-4o-2024-08-06", "another"]),
)
def test_the_model_of_the_tests_says_the_same(usage: dict[str, Any], model: str | None, stated: str) -> None:
    given = event(model=stated, vendor_usage={"usage": usage, **({"model": model} if model else {})})
    row, _ = row_of(given)
    at_ms = int(AT.timestamp() * 1000)
    expected = expect([RawRecord("usage.raw", 0, 0, at_ms, json.dumps(given).encode())], ORACLE)
    (line,), (hour,) = expected.ledger.values(), expected.hourly
    amount = None if row.amount_pico is None else Fraction(row.amount_pico, 10**12)
    assert (row.currency, amount, row.model) == (line.currency, line.amount, hour[4])
    (sums,) = expected.hourly.values()
    assert [int(sums.units[unit]) for unit in ("input_tokens", "output_tokens", "cache_read_tokens")] == [
        row.input_tokens,
        row.output_tokens,
        row.cache_read_tokens,
    ]


@pytest.mark.parametrize("name", sorted({*ALIASES, *OTHER_NAMES}))
def test_a_provider_lands_on_the_name_that_has_prices(name: str) -> None:
    for said in (name, name.upper()):
        ours = provider_of(said)
        assert ours in ALIASES
        assert len(ours) <= len(said), "the event's key cannot become too long by it"
        row, _ = row_of(event(provider=said, model="m", usage={"input_tokens": 1}))
        assert row.provider == ours
        assert attributes_of(row) == ({} if ours == said else {"stated_provider": said})


def test_a_provider_that_nobody_knows_keeps_its_name() -> None:
    row, _ = row_of(event(provider="Acme", model="m", usage={"input_tokens": 1}))
    assert (row.provider, row.attributes) == ("Acme", None)


def test_every_provider_with_shipped_prices_is_in_the_table_and_no_name_is_two_providers() -> None:
    assert {line.provider for line in price_file.shipped()} <= ALIASES.keys()
    names = [*ALIASES, *(other for others in ALIASES.values() for other in others)]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() for name in names)


def test_the_alias_is_no_part_of_what_makes_an_event_the_same() -> None:
    """The claim is made of what was sent: an event of another spelling is another content under the same id."""
    bodies = {row_of(event(provider=name, usage={"input_tokens": 1}))[0].body for name in ("aws", "bedrock")}
    assert len(bodies) == 2


BEDROCK = "anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu." + BEDROCK


@pytest.mark.parametrize(
    ("stated", "model", "attributes"),
    [
        (f"us.{BEDROCK}", f"us.{BEDROCK}", {}),
        (f"global.{BEDROCK}", f"global.{BEDROCK}", {}),
        (BEDROCK, BEDROCK, {}),
        (ARN, f"eu.{BEDROCK}", {"stated_model": ARN, "region": "eu-central-1"}),
        (
            f"arn:aws:bedrock:us-west-2::foundation-model/{BEDROCK}",
            BEDROCK,
            {"stated_model": f"arn:aws:bedrock:us-west-2::foundation-model/{BEDROCK}", "region": "us-west-2"},
        ),
        (
            "arn:aws:bedrock:us-west-2:1:application-inference-profile/claude-x",
            "claude-sonnet-4-5-20250929",
            {
                "stated_model": "arn:aws:bedrock:us-west-2:1:application-inference-profile/claude-x",
                "region": "us-west-2",
            },
        ),
        ("us.amazon.nova-lite-v1:0", "claude-sonnet-4-5-20250929", {"stated_model": "us.amazon.nova-lite-v1:0"}),
        ("", "claude-sonnet-4-5-20250929", {}),
    ],
)
@pytest.mark.parametrize("provider", ["aws", "bedrock"])
def test_a_model_of_bedrock_keeps_the_geography_of_its_call(
    provider: str, stated: str, model: str, attributes: dict[str, str]
) -> None:
    body = {
        "model": "claude-sonnet-4-5-20250929",
        "usage": {"input_tokens": 3, "output_tokens": 1, "speed": "standard"},
    }
    row, _ = row_of(event(provider=provider, model=stated, vendor_usage=body))
    renamed = {"stated_provider": "bedrock"} if provider == "bedrock" else {}
    assert (row.provider, row.model, attributes_of(row)) == ("aws", model, {**attributes, **renamed})


@pytest.mark.parametrize(
    "usage", [{"usage": {"input_tokens": 1}}, {"vendor_usage": {"inputTokens": 1, "outputTokens": 0}}]
)
def test_an_arn_is_read_with_canonical_usage_too(usage: dict[str, Any]) -> None:
    row, _ = row_of(event(provider="bedrock", model=ARN, **usage))
    assert row.model == f"eu.{BEDROCK}"
    noted = {"stated_provider": "bedrock", "stated_model": ARN, "region": "eu-central-1"}
    assert attributes_of(row) == noted
    row, _ = row_of(event(provider="aws", model=ARN, region="x", **usage))
    assert attributes_of(row)["region"] == "x"
    own = "arn:aws:bedrock:us-west-2:1:provisioned-model/abc"
    row, _ = row_of(event(provider="aws", model=own, **usage))
    assert row.model == own, "a name of one's own says no model"


RESOURCE = "projects/p/locations/us-central1/publishers/anthropic/models/claude-sonnet-4@20250514"


@pytest.mark.parametrize(
    ("provider", "long", "model"),
    [
        ("google", "google/gemini-2.5-flash", "gemini-2.5-flash"),
        ("vertex_ai", "publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("google", "models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("vertex_ai", RESOURCE, "claude-sonnet-4@20250514"),
        ("google", "projects/p/locations/l/endpoints/7", "projects/p/locations/l/endpoints/7"),
        ("google", "meta/llama-4", "meta/llama-4"),
        ("openrouter", "google/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("groq", "openai/gpt-oss-120b", "openai/gpt-oss-120b"),
    ],
)
def test_a_model_may_answer_by_its_long_name(provider: str, long: str, model: str) -> None:
    for said in (
        {"vendor_usage": {"model": long, "usage": CHAT}},
        {"model": long, "vendor_usage": CHAT},
        {"model": long, "usage": {"input_tokens": 1}},
    ):
        row, _ = row_of(event(provider=provider, **said))
        assert row.model == model, said
        noted = attributes_of(row).get("stated_model")
        assert noted == (long if model != long and "model" in said else None)


def test_what_converse_does_not_name_is_the_id_in_the_arn() -> None:
    row, _ = row_of(event(provider="aws", model=ARN, vendor_usage={"usage": {"inputTokens": 3, "outputTokens": 1}}))
    assert (row.model, row.pricing) == (f"eu.{BEDROCK}", "unpriced")


def test_a_tier_without_a_price_is_unpriced_and_says_so() -> None:
    row, _ = row_of(event(model="gpt-4o-2024-08-06", service_tier="scale", usage={"input_tokens": 1}))
    assert (row.pricing, row.amount_pico) == ("unpriced", None)
    assert "no price names the service tier 'scale'" in attributes_of(row)["unpriced_reason"]
    row, _ = row_of(event(model="nobody-knows", service_tier="scale", usage={"input_tokens": 1}))
    assert attributes_of(row) == {"service_tier": "scale"}, "it has no price in any tier"
    for same in ("auto", "default", "on_demand", "STANDARD"):
        row, _ = row_of(event(model="gpt-4o-2024-08-06", service_tier=same, usage={"input_tokens": 1}))
        assert row.pricing == "priced"


SECRET = "the secret of the prompt"
CONTENT: dict[str, Any] = {
    "choices": [{"message": {"content": SECRET}, "logprobs": [0.4242]}],
    "output": [{"type": "message", "content": SECRET}, {"type": "web_search_call", "action": {"query": SECRET}}],
    "candidates": [{"content": SECRET, "groundingMetadata": {"webSearchQueries": [SECRET]}}],
    "attributes": {"gen_ai.prompt": SECRET, "gen_ai.usage.note": SECRET, "gen_ai.usage.x": {"a": SECRET}},
    "results": [{"summary": SECRET}],
    "answer": SECRET,
    "metadata": {"user": SECRET},
    "type": SECRET,
    SECRET: 5,
}
IN_USAGE: dict[str, Any] = {"note": SECRET, SECRET: 5, "type": SECRET, "model": SECRET, "cost_details": {SECRET: 1}}
BODIES_WITH_CONTENT = {
    "beside the usage": {**CONTENT, "model": "gpt-4o-2024-08-06", "usage": CHAT},
    "within the usage": {"model": "gpt-4o-2024-08-06", "usage": {**CHAT, **IN_USAGE}},
    "in what ends a stream": {"response": {**CONTENT, "usage": {"input_tokens": 5, "output_tokens": 1}}},
    "pairs of a span": {"attributes": [{"key": "gen_ai.usage.x", "value": {"stringValue": SECRET}, "note": SECRET}]},
    "no shape": CONTENT,
    "names that nobody knows": {"usage": {SECRET: 5, f"{SECRET}s": 6}},
    "a cache that nobody knows": {"usage": {**CHAT, f"cache of {SECRET}": 5}},
    "a text for an object": {"usage": SECRET},
    "a text for a count": {"usage": {**CHAT, "completion_tokens": SECRET}},
    "an object for a count": {"usage": {**CHAT, "completion_tokens": {"a": SECRET}}},
    "a text for a list": {"usage": {"input_tokens": 1, "output_tokens": 1, "speed": 5}, "output": SECRET},
    "a currency": {"num_segments": "1", "price": "-0.05", "price_unit": SECRET},
}


@pytest.mark.parametrize("has_usage", [False, True], ids=["read", "usage wins"])
@pytest.mark.parametrize("body", BODIES_WITH_CONTENT.values(), ids=BODIES_WITH_CONTENT)
def test_no_word_of_prompt_and_answer_is_stored(body: dict[str, Any], has_usage: bool) -> None:
    given = event(model="m", vendor_usage=body, **({"usage": {"input_tokens": 1}} if has_usage else {}))
    row, _ = row_of(given)
    assert "secret" not in repr(row)
    assert "4242" not in (row.vendor_usage or "")


def test_numbers_of_a_body_are_stored_digit_by_digit() -> None:
    text = '{"usage": {"prompt_tokens": 9, "completion_tokens": 1, "cost": 0.100000000000000000001, "time": 1e-9}}'
    row, _ = row_of(event(vendor_usage=json.loads(text)), text.encode())
    assert row.vendor_usage is not None
    kept = json.loads(row.vendor_usage, parse_float=str)["usage"]
    assert Decimal(kept["cost"]) == Decimal("0.100000000000000000001")
    assert Decimal(kept["time"]) == Decimal("1e-9")


@pytest.mark.parametrize("number", ["1e-99999999999999999999", "0.1e-400", "123456789012345678901234567890"])
def test_a_number_beyond_any_other_is_no_fault(number: str) -> None:
    text = json.dumps({"usage": {**CHAT, "cost": 0}}).replace(": 0}", f": {number}}}")
    row, rater = row_of(event(vendor_usage=json.loads(text)), text.encode())
    assert rater.dispositions.total() == 1 and row.vendor_usage is not None
