"""The generated price files: made again they are the same, and a second list differs only where a person has looked."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from genai_prices.types import (
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from meterstream.deploy.price_book import second
from meterstream.deploy.price_book.__main__ import FOLDER, generated
from meterstream.deploy.price_book.listed import SINCE_EVER, Amount, Condition, LeftOut, amount, timeline
from meterstream.deploy.price_book.names import Untranslatable, names_of
from meterstream.schema import price_file


def model(prices: object, variants: list[PriceVariant] | None = None, name: str = "m") -> ModelInfo:
    return ModelInfo(id=name, match=ClauseEquals("m"), prices=prices, price_variants=variants)  # type: ignore[arg-type]


def test_the_shipped_files_are_what_the_tool_makes_of_the_pinned_list() -> None:
    texts, _ = generated()
    shipped = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.listed.yaml")}
    assert set(texts) == set(shipped), "run `make prices`"
    for name, text in texts.items():
        assert text == shipped[name], f"{name}: run `make prices`"


def test_what_is_left_out_is_known() -> None:
    """A model that a new release of the list describes in a new way is not lost without a word."""
    _, left_out = generated()
    assert sorted(left_out) == [
        "azure moderation: it has no rate above zero",
        "google gemma-3: it has no rate above zero",
        "google gemma-3n: it has no rate above zero",
        "google gemma-4-26b-a4b-it: it has no rate above zero",
        "google gemma-4-31b-it: it has no rate above zero",
        "openai moderation: it has no rate above zero",
        "openrouter gemini-2.5-pro-exp-03-25: it has no rate above zero",
        "openrouter google/gemini-flash-1.5-8b-exp: it has no rate above zero",
        "openrouter google/lyria-3-clip-preview: it has no rate above zero",
        "openrouter google/lyria-3-pro-preview: it has no rate above zero",
        "openrouter stealth/crouton-alpha: it has no rate above zero",
        "xai grok-voice-latest: no unit for input_text_messages_kcount",
        "xai grok-voice-think-fast-1.0: no unit for input_text_messages_kcount",
        "xai grok-voice-think-fast-2.0: no unit for input_text_messages_kcount",
    ]


def test_each_difference_from_the_second_list_was_accepted_and_is_still_there() -> None:
    new, gone = second.judged(second.differences(price_file.shipped(), second.entries()), second.accepted())
    assert not new, f"look at these, then mend them or add them to {second.ACCEPTED.name} with the reason"
    assert not gone, f"these are no longer so: remove them from {second.ACCEPTED.name}"


def test_what_both_lists_price_is_priced_here_or_somebody_said_why_not() -> None:
    new, gone = second.judged(second.unpriced(price_file.shipped(), second.entries()), second.accepted_unpriced())
    assert not new, f"price these, or add them to {second.UNPRICED.name} with the reason"
    assert not gone, f"these have a price now: remove them from {second.UNPRICED.name}"


def test_a_model_that_both_lists_price_is_missed() -> None:
    line = price_file.single(
        provider="groq", model="gemma-7b-it", unit="input_tokens", rate="0.05", per=10**6, currency="USD",
        valid_from="2024-01-01", source="test",
    )  # fmt: skip
    cost = {"input_cost_per_token": "0.00000005"}
    entries = {
        "groq/gemma-7b-it": {"litellm_provider": "groq", **cost},
        "groq/gemma2-9b-it": {"litellm_provider": "groq", **cost},
        "groq/of-one-list": {"litellm_provider": "groq", **cost},
    }
    assert list(second.unpriced([line], entries)) == ["groq gemma2-9b-it"]
    entries["groq/gemma-7b-it"]["output_cost_per_token"] = "0.00000007"
    assert list(second.unpriced([line], entries)) == ["groq gemma-7b-it", "groq gemma2-9b-it"]


def test_a_new_difference_is_found() -> None:
    line = price_file.single(
        provider="groq", model="m-1", unit="input_tokens", rate="0.5", per=10**6, currency="USD",
        valid_from="2026-01-01", source="test",
    )  # fmt: skip
    entries = json.loads('{"groq/m-1": {"litellm_provider": "groq", "input_cost_per_token": "0.0000005006"}}')
    found = list(second.differences([line], entries))
    assert [str(each) for each in found] == ["groq m-1 input_tokens: 0.5 here, 0.5006 there"]
    assert second.judged(found, {"groq m-2 input_tokens: 1 here, 2 there"}) == (
        ["groq m-1 input_tokens: 0.5 here, 0.5006 there"],
        ["groq m-2 input_tokens: 1 here, 2 there"],
    )
    entries["groq/m-1"]["input_cost_per_token"] = "0.0000005004"
    assert list(second.differences([line], entries)) == []


def test_a_unit_without_a_rate_of_its_own_is_compared_by_that_of_its_total() -> None:
    """What a call is charged counts, and not which rows there are."""
    (line,) = price_file.parse(
        "provider: openai\ncurrency: USD\nper: 1000000\nsource: s\nmodels:\n"
        '  - {names: [m], prices: [{valid_from: 2026-01-01, rates: {input_tokens: "2.5"}}]}\n'
    )
    field = "input_cost_per_audio_token"
    found = list(second.differences([line], {"m": {"litellm_provider": "openai", field: "0.00004"}}))
    assert [str(difference) for difference in found] == ["openai m input_audio_tokens: 2.5 here, 40 there"]
    assert list(second.differences([line], {"m": {"litellm_provider": "openai", field: "0.0000025"}})) == []


def test_the_cut_of_the_second_list_keeps_exact_digits() -> None:
    text = '{"groq/m": {"litellm_provider": "groq", "input_cost_per_token": 1.5e-07, "mode": "chat"}, "x": {}}'
    assert second.cut(text) == second.cut(text)
    assert len(second.entries()) > 1_000
    assert all(Fraction(entry[name]) >= 0 for entry in second.entries().values() for name in entry if "cost" in name)


@pytest.mark.parametrize(
    ("price", "rate"),
    [
        ("0.30000000000000004", "0.3"),
        ("0.18000000000000002", "0.18"),
        ("0.04166666666666666666666666667", "0.0416666666667"),
        ("1E+2", "100"),
        ("0.0125", "0.0125"),
    ],
)
def test_the_debris_of_floats_is_swept_away(price: str, rate: str) -> None:
    assert amount(Decimal(price), 10**6) == Amount(rate, 10**6)


def test_past_rates_tiers_and_thresholds_keep_their_days() -> None:
    steps = timeline(
        model(
            [
                ConditionalPrice(prices=ModelPrice(input_mtok=TieredPrices(Decimal(2), [Tier(200_000, Decimal(4))]))),
                ConditionalPrice(StartDateConstraint(date(2026, 3, 1)), prices=ModelPrice(input_mtok=Decimal(1))),
            ],
            [
                PriceVariant(
                    {"processing": "batch"},
                    ModelPrice(input_mtok=Decimal("0.5")),
                    StartDateConstraint(date(2026, 10, 14)),
                )
            ],
        )
    )
    unit = "input_tokens"
    assert steps == [
        (SINCE_EVER, {(Condition(), unit): Amount("2", 10**6), (Condition("", 200_000), unit): Amount("4", 10**6)}),
        (date(2026, 3, 1), {(Condition(), unit): Amount("1", 10**6)}),
        (
            date(2026, 10, 14),
            {(Condition(), unit): Amount("1", 10**6), (Condition("batch"), unit): Amount("0.5", 10**6)},
        ),
    ]


def test_a_model_without_any_rate_is_no_free_one() -> None:
    with pytest.raises(LeftOut, match="no rate above zero"):
        timeline(model(ModelPrice()))
    ((_, state),) = timeline(model(ModelPrice(), name="m:free"))
    assert {unit: amount.rate for (_, unit), amount in state.items()} == {"input_tokens": "0", "output_tokens": "0"}


def test_what_the_units_cannot_say_is_left_out() -> None:
    with pytest.raises(LeftOut, match="no unit for input_text_messages_kcount"):
        timeline(model(ModelPrice(input_text_messages_kcount=Decimal(4))))
    hours = TimeOfDateConstraint(start_time=None, end_time=None)  # type: ignore[arg-type]
    with pytest.raises(LeftOut, match="depends on the hour"):
        timeline(model([ConditionalPrice(hours, prices=ModelPrice(input_mtok=Decimal(4)))]))


def test_rules_for_names() -> None:
    assert names_of("groq", ClauseOr([ClauseEquals("a"), ClauseEquals("a"), ClauseStartsWith("a-")])) == [
        ("exact", "a"),
        ("prefix", "a-"),
    ]
    assert names_of("openai", ClauseRegex(r"^gpt-6\.1-sol-\d{4}-\d{2}-\d{2}$")) == [("exact", "gpt-6.1-sol")]
    assert names_of("google", ClauseRegex(r"^gemini-4-argon-\d")) == [("pattern", "gemini-4-argon-[0-9]*")]
    assert names_of("aws", ClauseEndsWith("/us.kimi")) == [("exact", "us.kimi")]
    assert ("prefix", "eu.amazon.nova-lite") in names_of("aws", ClauseContains("amazon.nova-lite"))
    assert names_of("aws", ClauseContains("eu.anthropic.c")) == [("prefix", "eu.anthropic.c")]
    with pytest.raises(Untranslatable):
        names_of("openai", ClauseRegex("a|b"))


def test_a_part_of_a_bedrock_id_without_its_maker_stands_for_the_ids_with_it() -> None:
    """Ids of Bedrock begin with a geography, or with the maker of the model."""
    found = names_of("aws", ClauseContains("claude-3-opus"))
    assert {("prefix", "anthropic.claude-3-opus"), ("prefix", "us.anthropic.claude-3-opus")} <= set(found)
    assert ("prefix", "us.claude-3-opus") not in found
    assert ("prefix", "us-gov.amazon.titan-text-lite") in names_of("aws", ClauseContains("titan-text-lite"))
    with pytest.raises(Untranslatable):
        names_of("aws", ClauseContains("newcomer-1"))
