"""Golden charges one token, one minute and one letter on each side of every edge of a price's conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from meterstream.deploy.pricing.clashes import unusable
from meterstream.deploy.pricing.prices import as_row
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.price import charge
from meterstream.processors.rating.scopes import ambiguities, mixtures, overlaps, shadows
from meterstream.schema import price_file
from meterstream.schema.catalog import ConditionalPrice, Price, decode_entry, encode_entry
from meterstream.schema.errors import PriceFileInvalid, RecordUnreadable
from meterstream.schema.model_match import Pattern, undated
from meterstream.schema.money import format_amount
from meterstream.schema.price_line import PriceLine
from meterstream.schema.time_window import parse_time_window

NOON = datetime(2026, 6, 3, 12, tzinfo=UTC)

Charged = Callable[..., str | None]


def rows_of(lines: list[PriceLine]) -> list[Price]:
    return [as_row(line, price_id, 1, NOON) for price_id, line in enumerate(lines, start=1)]


def charged(text: str) -> Charged:
    """What a call costs with the prices of this file, as text; None: it is unpriced."""
    book = Book(rows_of(price_file.parse(text)), 1)

    def of(
        usage: Mapping[str, int | Decimal],
        model: str = "m-1",
        at: datetime | str = NOON,
        tenant: str = "other",
        **context: Any,
    ) -> str | None:
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        rates = book.lookup(tenant, "acme", model, moment, **context)
        amount = None if rates is None else charge(usage, rates)
        return None if amount is None else format_amount(amount)

    return of


def a_file(models: str, per: int = 1) -> str:
    return f"provider: acme\ncurrency: USD\nper: {per}\nsource: s\nmodels:\n{models}"


# Thresholds


TIERED = a_file(
    """
  - names: [m-1]
    prices:
      - valid_from: 2026-01-01
        rates: {input_tokens: "1.25", cache_read_tokens: "0.125", output_tokens: "10"}
      - valid_from: 2026-01-01
        above: 200000
        rates: {input_tokens: "2.5", cache_read_tokens: "0.25", output_tokens: "15"}
      - valid_from: 2026-01-01
        above: 500000
        rates: {output_tokens: "20"}
      - valid_from: 2026-01-01
        above: 8
        above_unit: images
        rates: {images: "1"}
      - valid_from: 2026-01-01
        rates: {images: "2"}
""",
    per=1_000_000,
)


@pytest.mark.parametrize(
    ("usage", "amount"),
    [
        ({"input_tokens": 199_999, "output_tokens": 1}, "0.25000875"),
        ({"input_tokens": 200_000, "output_tokens": 1}, "0.25001"),
        ({"input_tokens": 200_001, "output_tokens": 1}, "0.5000175"),
        ({"input_tokens": 200_000, "cache_read_tokens": 100_000}, "0.1375"),
        ({"input_tokens": 200_001, "cache_read_tokens": 100_000}, "0.2750025"),
        ({"input_tokens": 500_000, "output_tokens": 1}, "1.250015"),
        ({"input_tokens": 500_001, "output_tokens": 1}, "1.2500225"),
        ({"output_tokens": 600_000}, "6"),
        ({"images": 8}, "0.000016"),
        ({"images": 9}, "0.000009"),
        ({"images": 9, "input_tokens": 200_000}, "0.250009"),
    ],
)
def test_the_whole_call_moves_strictly_above_a_threshold(usage: dict[str, int], amount: str) -> None:
    assert charged(TIERED)(usage) == amount


# Context


CONTEXT = a_file(
    """
  - names: [m-1]
    prices:
      - valid_from: 2026-01-01
        rates: {input_tokens: "10", web_searches: "7"}
      - valid_from: 2026-01-01
        service_tier: batch
        rates: {input_tokens: "5"}
      - valid_from: 2026-06-01
        service_tier: priority
        rates: {input_tokens: "18"}
      - valid_from: 2026-01-01
        region: eu
        rates: {input_tokens: "11"}
      - valid_from: 2026-01-01
        service_tier: batch
        region: eu
        rates: {input_tokens: "6"}
      - valid_from: 2026-01-01
        processing: sealed
        rates: {input_tokens: "12"}
  - names: [m-standard]
    prices:
      - valid_from: 2026-01-01
        service_tier: standard
        rates: {input_tokens: "1"}
"""
)


@pytest.mark.parametrize(
    ("context", "amount"),
    [
        ({}, "10"),
        ({"service_tier": "standard"}, "10"),
        ({"service_tier": "batch"}, "5"),
        ({"service_tier": "Batch"}, "5"),
        ({"service_tier": "flex"}, None),
        ({"service_tier": "on_demand"}, "10"),
        ({"service_tier": "scale"}, None),
        ({"service_tier": "priority"}, "18"),
        ({"region": "eu"}, "11"),
        ({"region": "eu-west"}, "10"),
        ({"service_tier": "batch", "region": "eu"}, "6"),
        ({"service_tier": "priority", "region": "eu"}, "18"),
        ({"tags": {"processing": "sealed"}}, "12"),
        ({"tags": {"processing": "sealed"}, "region": "eu"}, "11"),
        ({"service_tier": "priority", "at": "2026-05-31T23:59:59.999999+00:00"}, None),
        ({"service_tier": "priority", "at": "2026-06-01T00:00:00+00:00"}, "18"),
    ],
)
def test_the_row_that_names_most_wins_tier_before_region_before_processing(
    context: dict[str, Any], amount: str | None
) -> None:
    assert charged(CONTEXT)({"input_tokens": 1}, **context) == amount


def test_a_unit_without_a_rate_in_a_tier_costs_what_it_costs_for_every_call() -> None:
    assert charged(CONTEXT)({"web_searches": 2}, service_tier="batch") == "14"


@pytest.mark.parametrize(("tier", "amount"), [("", "1"), ("default", "1"), ("standard", "1"), ("batch", None)])
def test_a_price_of_the_standard_tier_is_for_no_other(tier: str, amount: str | None) -> None:
    assert charged(CONTEXT)({"input_tokens": 1}, "m-standard", service_tier=tier) == amount


def test_a_tenants_own_rate_without_a_tier_holds_in_every_tier() -> None:
    own = '  - {names: [m-1], tenant: t, prices: [{valid_from: 2026-01-01, rates: {input_tokens: "3"}}]}\n'
    charge_of = charged(CONTEXT + own)
    assert charge_of({"input_tokens": 1}, tenant="t", service_tier="scale") == "3"
    assert charge_of({"web_searches": 1}, tenant="t", service_tier="scale") is None, "that one is everybody's"
    assert charge_of({"web_searches": 1}, tenant="t", service_tier="batch") == "7", "the vendor has that tier"


@pytest.mark.parametrize("terms", ['rates: {input_tokens: "3"}', 'percent: "0.5"'])
def test_one_row_that_names_a_tier_lets_the_rates_without_a_tier_hold_in_it(terms: str) -> None:
    """As docs/prices.md says: a tenant's row for that tenant's calls alone, common rates included."""
    own = f"  - {{names: [m-1], tenant: t, prices: [{{valid_from: 2026-01-01, service_tier: scale, {terms}}}]}}\n"
    charge_of = charged(CONTEXT + own)
    assert charge_of({"web_searches": 1}, service_tier="scale") is None
    assert charge_of({"web_searches": 1}, tenant="t", service_tier="scale") in ("7", "7.035")
    assert charge_of({"input_tokens": 1}, tenant="t", service_tier="scale") is not None


def test_a_tier_that_its_vendor_charges_as_the_standard_one() -> None:
    book = Book(rows_of(price_file.parse(CONTEXT.replace("provider: acme", "provider: groq"))), 1)
    assert book.lookup("t", "groq", "m-1", NOON, "Flex") is book.lookup("t", "groq", "m-1", NOON, "standard")
    assert charged(CONTEXT)({"input_tokens": 1}, service_tier="Flex") is None, "not with others"


# Hours


OFF_PEAK = a_file(
    """
  - names: [m-1]
    prices:
      - valid_from: 2025-01-01
        rates: {input_tokens: "4"}
      - valid_from: 2025-01-01
        time_window: 00:30-08:30 Asia/Shanghai
        rates: {input_tokens: "1"}
  - names: [m-nights]
    prices:
      - valid_from: 2025-01-01
        rates: {input_tokens: "4"}
      - valid_from: 2025-01-01
        time_window: fri-sat 22:00-02:00 Europe/Berlin
        rates: {input_tokens: "1"}
  - names: [m-weekend]
    prices:
      - valid_from: 2025-01-01
        time_window: sat,sun 00:00-00:00 America/New_York
        rates: {input_tokens: "1"}
"""
)


@pytest.mark.parametrize(
    ("model", "at", "amount"),
    [
        ("m-1", "2026-06-03T16:29:59.999999+00:00", "4"),
        ("m-1", "2026-06-03T16:30:00+00:00", "1"),
        ("m-1", "2026-06-04T00:29:59.999999+00:00", "1"),
        ("m-1", "2026-06-04T00:30:00+00:00", "4"),
        # Friday and Saturday evening open; what opened on Saturday closes on Sunday at two
        ("m-nights", "2026-06-05T21:59:59+02:00", "4"),
        ("m-nights", "2026-06-05T22:00:00+02:00", "1"),
        ("m-nights", "2026-06-06T01:59:59+02:00", "1"),
        ("m-nights", "2026-06-06T02:00:00+02:00", "4"),
        ("m-nights", "2026-06-07T01:59:59+02:00", "1"),
        ("m-nights", "2026-06-07T22:00:00+02:00", "4"),
        ("m-nights", "2026-06-05T00:30:00+02:00", "4"),
        # clocks go forward in the night of 2026-03-29: two o'clock is three o'clock, and one hour after one
        ("m-nights", "2026-03-29T00:59:59+00:00", "1"),
        ("m-nights", "2026-03-29T01:00:00+00:00", "4"),
        # and back on 2026-10-25, a Sunday; winter's hours are an hour later in UTC
        ("m-nights", "2026-10-31T20:59:59+00:00", "4"),
        ("m-nights", "2026-10-31T21:00:00+00:00", "1"),
        ("m-weekend", "2026-06-06T03:59:59+00:00", None),
        ("m-weekend", "2026-06-06T04:00:00+00:00", "1"),
        ("m-weekend", "2026-06-08T03:59:59+00:00", "1"),
        ("m-weekend", "2026-06-08T04:00:00+00:00", None),
    ],
)
def test_hours_are_those_of_the_vendors_zone(model: str, at: str, amount: str | None) -> None:
    assert charged(OFF_PEAK)({"input_tokens": 1}, model, at) == amount


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("16:30-00:30", "is no window of hours: write it as"),
        ("mon 16:30-24:00 UTC", "'16:30-24:00' are no hours of a day"),
        ("mon 16:30-0:30 UTC", "are no hours of a day"),
        ("moon 16:30-00:30 UTC", "'moon' is no day of the week"),
        ("mon- 16:30-00:30 Europe/Berlyn", "there is no time zone 'Europe/Berlyn'"),
        ("16:30-00:30 ../UTC", "there is no time zone"),
    ],
)
def test_a_window_that_cannot_be_read_says_how_to_write_it(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_time_window(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Mon-Fri 16:30-00:30 UTC", "mon,tue,wed,thu,fri 16:30-00:30 UTC"),
        ("sun-mon 01:00-02:00 UTC", "mon,sun 01:00-02:00 UTC"),
        ("mon-sun 01:00-02:00 UTC", "01:00-02:00 UTC"),
    ],
)
def test_a_window_has_one_way_to_be_written(text: str, canonical: str) -> None:
    assert str(parse_time_window(text)) == canonical == str(parse_time_window(canonical))


# Names


NAMED = a_file(
    """
  - names: [m-1, alias-of-m-1]
    prices: [{valid_from: 2026-01-01, rates: {input_tokens: "1"}}]
  - names: [m-1-2024-08-06]
    prices: [{valid_from: 2026-01-01, rates: {input_tokens: "2"}}]
  - names: [m-, m-large]
    match: prefix
    prices: [{valid_from: 2026-01-01, rates: {input_tokens: "3"}}]
  - names: ["m-large-2"]
    match: prefix
    prices: [{valid_from: 2026-01-01, rates: {input_tokens: "4"}}]
  - names: ["*/m-?-v[0-9]:0"]
    match: pattern
    prices: [{valid_from: 2026-01-01, rates: {input_tokens: "5"}}]
  - names: [gone]
    prices:
      - {valid_from: 2026-01-01, rates: {input_tokens: "6"}}
      - {valid_from: 2026-02-01, rates: {input_tokens: withdrawn}}
  - names: [go]
    match: prefix
    prices: [{valid_from: 2026-01-01, rates: {input_tokens: "7"}}]
"""
)


@pytest.mark.parametrize(
    ("model", "amount"),
    [
        ("m-1", "1"),
        ("alias-of-m-1", "1"),
        ("alias-of-m-1-20240806", "1"),
        ("m-1-2024-08-06", "2"),
        ("m-1-2024-08-07", "1"),
        ("m-1-20240806", "1"),
        ("m-1@20240806", "1"),
        ("m-1-2024-02-31", "3"),
        ("m-1-2024-08", "3"),
        ("m-1-0806", "3"),
        ("m-1-2024-08-06-1", "3"),
        ("m-", "3"),
        ("m", None),
        ("M-1", None),
        ("m-larg", "3"),
        ("m-large", "3"),
        ("m-large-1", "3"),
        ("m-large-2", "4"),
        ("m-large-2-2024-08-06", "4"),
        ("eu/m-x-v1:0", "5"),
        ("/m-x-v1:0", "5"),
        ("eu/m-xx-v1:0", None),
        ("eu/m-x-va:0", None),
        ("eu/m-x-v1:00", None),
        ("eu/m-x-v1:0\n", None),
        ("gone", None),
        ("gone-1", "7"),
        ("", None),
    ],
)
def test_a_name_finds_the_nearest_rows(model: str, amount: str | None) -> None:
    assert charged(NAMED)({"input_tokens": 1}, model) == amount


def test_a_name_with_a_date_is_undated_once() -> None:
    assert undated("m-2024-01-01-2024-01-02") == "m-2024-01-01"
    assert undated("-2024-01-01") is None and undated("m-2024-1-1") is None and undated("m٢-٢٠٢٤-٠١-٠١") is None


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a+)+b", "no regular expression"),
        ("a.*|b", "no regular expression"),
        ("a**b", "write one"),
        ("a[0-9", "has no `]`"),
        ("a[]", "has no `]`"),
        ("a]", "has no `\\["),
        ("a[9-0]", "goes nowhere"),
        ("a[!b]", "not those that may not"),
    ],
)
def test_a_pattern_outside_of_the_safe_kind_is_refused_with_the_fix(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Pattern(pattern)


def test_the_worst_pattern_and_the_worst_name_end_in_a_few_thousand_steps() -> None:
    """With a matcher that tries every way this would outlast the machine."""
    assert not Pattern("*a" * 60 + "b").matches("a" * 128)
    assert Pattern("*a" * 60 + "*").matches("a" * 128)
    assert Pattern("*a" * 60).overlaps(Pattern("*[ab]" * 60))


def test_two_patterns_for_one_model_are_found_and_nothing_is_guessed() -> None:
    text = a_file(
        """
  - names: ["m-*-x"]
    match: pattern
    prices:
      - {valid_from: 2026-01-01, rates: {input_tokens: "1"}}
      - {valid_from: 2026-05-01, rates: {input_tokens: withdrawn}}
  - names: ["m-1-*"]
    match: pattern
    prices: [{valid_from: 2026-04-01, rates: {input_tokens: "2"}}]
  - names: ["n-*"]
    match: pattern
    prices: [{valid_from: 2026-01-01, rates: {input_tokens: "3"}}]
"""
    )
    found = ambiguities(rows_of(price_file.parse(text)))
    assert [(a.patterns, a.start) for a in found] == [(("m-*-x", "m-1-*"), datetime(2026, 4, 1, tzinfo=UTC))]
    call = charged(text)
    one = {"input_tokens": 1}
    assert call(one, "m-1-x", datetime(2026, 3, 31, tzinfo=UTC)) == "1"
    assert call(one, "m-1-x", datetime(2026, 4, 1, tzinfo=UTC)) is None
    assert call(one, "m-1-x", datetime(2026, 5, 1, tzinfo=UTC)) == "2"
    assert call(one, "m-2-x", datetime(2026, 4, 1, tzinfo=UTC)) == "1"


# Tenants


SCOPED = a_file(
    """
  - names: [m-1, m-2]
    prices:
      - {valid_from: 2026-01-01, rates: {input_tokens: "10", output_tokens: "40"}}
      - {valid_from: 2026-01-01, service_tier: batch, rates: {input_tokens: "5"}}
  - names: ["*"]
    match: pattern
    tenant: t
    prices: [{valid_from: 2026-01-01, percent: "-12.5"}, {valid_from: 2026-07-01, percent: withdrawn}]
  - names: [m-2]
    tenant: t
    prices:
      - {valid_from: 2026-01-01, rates: {input_tokens: "1"}}
      - {valid_from: 2026-01-01, rates: {output_tokens: {percent: "20"}}}
  - names: [m-]
    match: prefix
    tenant: reseller
    prices:
      - {valid_from: 2026-01-01, percent: "-100"}
      - {valid_from: 2026-01-01, service_tier: batch, percent: "0.000001"}
"""
)


@pytest.mark.parametrize(
    ("tenant", "model", "context", "amount"),
    [
        ("other", "m-1", {}, "50"),
        ("t", "m-1", {}, "43.75"),
        ("t", "m-1", {"service_tier": "batch"}, "39.375"),
        ("t", "m-1", {"at": "2026-06-30T23:59:59.999999+00:00"}, "43.75"),
        ("t", "m-1", {"at": "2026-07-01T00:00:00+00:00"}, "50"),
        ("t", "m-2", {}, "49"),  # an own rate stays as agreed; the nearer percent is for output, and for it alone
        ("t", "m-2", {"service_tier": "batch"}, "49"),
        ("t", "m-3", {}, None),
        ("reseller", "m-1", {}, "0"),
        ("reseller", "m-1", {"service_tier": "batch"}, "45.00000045"),
    ],
)
def test_a_tenants_own_rate_comes_before_its_percent_on_the_common_one(
    tenant: str, model: str, context: dict[str, Any], amount: str | None
) -> None:
    assert charged(SCOPED)({"input_tokens": 1, "output_tokens": 1}, model, tenant=tenant, **context) == amount


def test_a_condition_in_another_currency_mixes_and_says_which_rows() -> None:
    text = a_file('  - names: [m-1]\n    prices: [{valid_from: 2026-01-01, rates: {input_tokens: "1"}}]\n')
    rows = rows_of(
        [
            *price_file.parse(text),
            *price_file.parse(
                text.replace("USD", "EUR")
                .replace("m-1]", "m-]\n    match: prefix\n    tenant: t")
                .replace("2026-01-01,", "2026-01-01, service_tier: batch,")
            ),
        ]
    )
    found = mixtures(rows)
    assert [(mixture.tenant, mixture.model) for mixture in found] == [("t", "m-1")]
    assert Book(rows, 1).lookup("t", "acme", "m-1", NOON) is None
    assert Book(rows, 1).lookup("other", "acme", "m-1", NOON) is not None


# Files and entries


MISTAKES = [
    ("service_tier: bacth", "`service_tier`: there is no service tier 'bacth': did you mean batch?"),
    (
        "service_tier: Batch",
        "`service_tier`: 'Batch': service tiers are written in small letters: 'batch'",
    ),
    (
        "time_window: 16-17 UTC",
        "`time_window`: '16-17' are no hours of a day: write it as `mon-fri 16:30",
    ),
    ("above: 0", "`above`: Input should be greater than 0"),
    ("above: 1.5", "`above`:"),
    ("above_unit: images", "`prices`: `above_unit` needs `above`"),
    ('percent: "5"', "`percent` is on the common rate and for one tenant: add `tenant`"),
    ("percent: 5", "`percent`: 5 is a YAML number, and those are floats: write the rate in quotes"),
    ('percent: "-101"', "`percent`: '-101' is outside of -100 to 1000"),
    ("percent: 5%", "`percent`: '5%' is no percent"),
    ("tier: batch", "there is no field `tier`"),
]
"""(a line of a block, what is said of it)."""


def with_block(line: str) -> str:
    """A price file with this line in its only block, on line 8."""
    rates = 'rates: {input_tokens: "1"}'
    return a_file(f"  - names: [m]\n    prices:\n      - {line}\n        valid_from: 2026-01-01\n        {rates}\n")


@pytest.mark.parametrize(("block", "said"), MISTAKES)
def test_a_mistake_in_a_condition_is_named_with_line_and_fix(block: str, said: str) -> None:
    with pytest.raises(PriceFileInvalid) as raised:
        price_file.parse(with_block(block))
    assert f"prices:8: {said}" in str(raised.value)


@pytest.mark.parametrize(
    ("match", "name", "said"),
    [
        ("prefix", '""', "a prefix is not empty"),
        ("prefix", '"gpt-*"', "write `match: pattern`"),
        ("pattern", '"gpt-(4|5)"', "no regular expression"),
        ("regex", "gpt", "`match`: Input should be 'exact', 'prefix' or 'pattern'"),
    ],
)
def test_a_mistake_in_a_match_is_named_with_line_and_fix(match: str, name: str, said: str) -> None:
    text = a_file(
        f'  - names: [{name}]\n    match: {match}\n    prices: [{{valid_from: 2026-01-01, rates: {{images: "1"}}}}]\n'
    )
    with pytest.raises(PriceFileInvalid, match=r"prices:[67]: ") as raised:
        price_file.parse(text)
    assert said in str(raised.value)


def test_the_same_price_may_stand_once_for_each_condition() -> None:
    lines = price_file.parse(CONTEXT)
    assert len({line.key for line in lines}) == len(lines)
    twice = CONTEXT.replace('region: eu\n        rates: {input_tokens: "6"}', 'rates: {input_tokens: "6"}')
    with pytest.raises(PriceFileInvalid, match=r"acme m-1 input_tokens \(batch\) from .* is already at prices:"):
        price_file.parse(twice)


def test_an_earlier_version_leaves_a_conditional_price_out_instead_of_taking_it_for_a_plain_one() -> None:
    plain, conditional = rows_of(price_file.parse(CONTEXT))[0::2][:2]
    assert plain.is_plain and not conditional.is_plain
    assert b'"kind":"price"' in encode_entry(plain)[1] and b"match" not in encode_entry(plain)[1]
    assert b'"kind":"conditional_price"' in encode_entry(conditional)[1]
    read = decode_entry(encode_entry(conditional)[1])
    assert isinstance(read, ConditionalPrice)
    assert all(getattr(read, name) == getattr(conditional, name) for name in Price.__struct_fields__)


@pytest.mark.parametrize(
    "changes",
    [
        b'"match":"pattern","model":"a**"',
        b'"time_window":"always"',
        b'"percent":"-10"',
        b'"tenant":"t","percent":"-101"',
        b'"match":"regex"',
        b'"above":-1',
    ],
)
def test_an_entry_that_no_book_can_use_is_unreadable(changes: bytes) -> None:
    entry = encode_entry(rows_of(price_file.parse(CONTEXT))[2])[1]
    with pytest.raises(RecordUnreadable):
        decode_entry(entry[:-1] + b"," + changes + b"}")


@pytest.mark.parametrize(
    ("at", "amount"),
    [
        ("2026-11-20T00:59:59.999999+00:00", "0.15"),  # a Friday
        ("2026-11-20T01:00:00+00:00", "0.3"),
        ("2026-11-20T04:00:00+00:00", "0.15"),
        ("2026-11-20T06:00:00+00:00", "0.3"),
        ("2026-11-20T10:00:00+00:00", "0.15"),
        ("2026-11-21T01:00:00+00:00", "0.15"),
    ],
)
def test_a_shipped_price_by_the_hour(at: str, amount: str) -> None:
    rates = Book(rows_of(list(price_file.shipped())), 1).lookup(
        "t", "deepseek", "deepseek-flash", datetime.fromisoformat(at)
    )
    assert rates is not None
    assert format_amount(charge({"input_tokens": 1_000_000}, rates) or 0) == amount


# Names, nearer and wider


NEARER = a_file(
    """
  - names: [m-]
    match: prefix
    prices:
      - {valid_from: 2026-01-01, rates: {input_tokens: "1", output_tokens: "10", cache_read_tokens: "0.5"}}
      - {valid_from: 2026-01-01, service_tier: batch, rates: {input_tokens: "0.6"}}
  - names: ["*"]
    match: pattern
    prices: [{valid_from: 2025-01-01, rates: {input_tokens: "7", output_tokens: "7"}}]
"""
)
ONE_NAME = a_file('  - names: [m-1]\n    prices: [{valid_from: 2026-05-01, rates: {input_tokens: "2"}}]\n')


@pytest.mark.parametrize(
    ("at", "usage", "amount"),
    [
        ("2025-12-31T23:59:59+00:00", {"input_tokens": 1}, "7"),
        ("2026-01-01T00:00:00+00:00", {"input_tokens": 1}, "1"),
        ("2026-04-30T23:59:59.999999+00:00", {"input_tokens": 1, "output_tokens": 1}, "11"),
        ("2026-05-01T00:00:00+00:00", {"input_tokens": 1}, "2"),
        ("2026-05-01T00:00:00+00:00", {"input_tokens": 1, "output_tokens": 1}, None),
    ],
)
def test_the_nearest_name_that_has_begun_is_the_only_one(at: str, usage: dict[str, int], amount: str | None) -> None:
    models = ONE_NAME.split("models:\n")[1]
    assert charged(NEARER + models)(usage, "m-1", at) == amount


def added_to(before: str, text: str) -> list[tuple[str, datetime, list[str]]]:
    rows = rows_of([*price_file.parse(before), *price_file.parse(text)])
    count = len(price_file.parse(before))
    return [
        (shadow.key[1], shadow.start, sorted(f"{row.unit} {row.service_tier}".strip() for row in shadow.lost))
        for shadow in shadows(rows[:count], rows[count:])
    ]


MAY = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "added", "lost"),
    [
        (NEARER, ONE_NAME, [("m-1", MAY, ["cache_read_tokens", "input_tokens batch", "output_tokens"])]),
        (NEARER, ONE_NAME.replace("m-1", "x"), [("x", MAY, ["output_tokens"])]),
        # a pattern holds only where the prefix does not
        (NEARER, ONE_NAME.replace("[m-1]", '["m-1*"]\n    match: pattern'), []),
        (
            NEARER,
            ONE_NAME.replace("[m-1]", "[m-1]\n    match: prefix"),
            [("m-1", MAY, ["cache_read_tokens", "input_tokens batch", "output_tokens"])],
        ),
        (ONE_NAME, ONE_NAME.replace("m-1", "m-1-2026-05-06").replace("input", "output"), [
            ("m-1-2026-05-06", MAY, ["input_tokens"])
        ]),
        # everything is said, or that it ends
        (
            NEARER,
            a_file(
                """
  - names: [m-1]
    prices:
      - {valid_from: 2026-05-01, rates: {input_tokens: "2", output_tokens: withdrawn, cache_read_tokens: "1"}}
      - {valid_from: 2026-05-01, service_tier: batch, rates: {input_tokens: "1"}}
"""
            ),
            [],
        ),
        # of a name with rows of its own nothing wider is lost
        (NEARER + ONE_NAME.split("models:\n")[1], ONE_NAME.replace("2026-05-01", "2026-06-01"), []),
        # but of one whose rows were to begin later
        (
            NEARER + ONE_NAME.split("models:\n")[1],
            ONE_NAME.replace("2026-05-01", "2026-03-01"),
            [("m-1", datetime(2026, 3, 1, tzinfo=UTC), ["cache_read_tokens", "input_tokens batch", "output_tokens"])],
        ),
        (NEARER, ONE_NAME.replace("[m-1]", "[m-1]\n    tenant: t"), []),  # beside everybody's, unit by unit
        (
            SCOPED,
            ONE_NAME.replace("[m-1]", "[m-1]\n    tenant: t").replace('"2"', '{percent: "3"}'),
            [("m-1", MAY, ["*"])],
        ),
        (SCOPED, a_file('  - names: [m-1]\n    tenant: t\n    prices: [{valid_from: 2026-05-01, percent: "3"}]\n'), []),
    ],
)  # fmt: skip
def test_a_nearer_name_that_says_less_is_found(before: str, added: str, lost: list[Any]) -> None:
    assert added_to(before, added) == lost


# Hours


def with_hours(*hours: str) -> list[Price]:
    blocks = "".join(
        f'      - {{valid_from: 2026-01-0{day}, time_window: "{window}", rates: {{input_tokens: "{day}"}}}}\n'
        for day, window in enumerate(hours, 1)
    )
    return rows_of(price_file.parse(a_file(f"  - names: [m-1]\n    prices:\n{blocks}")))


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("08:00-18:00 UTC", "18:00-08:00 UTC", False),
        ("08:00-18:01 UTC", "18:00-08:00 UTC", True),
        ("08:00-18:00 UTC", "17:59-18:00 UTC", True),
        ("mon-fri 08:00-18:00 UTC", "sat,sun 00:00-00:00 UTC", False),
        ("fri 18:00-08:00 UTC", "sat,sun 00:00-00:00 UTC", True),
        ("00:00-00:00 UTC", "wed 03:00-03:01 UTC", True),
        # an hour apart in winter, the same in summer
        ("08:00-09:00 UTC", "10:00-11:00 Europe/Berlin", True),
        ("08:00-09:00 UTC", "11:00-12:00 Europe/Berlin", False),
        ("00:00-08:00 Asia/Shanghai", "00:00-16:00 UTC", False),
    ],
)
def test_two_prices_for_the_same_hours_are_found(one: str, other: str, overlap: bool) -> None:
    for hours in ((one, other), (other, one)):
        found = overlaps(with_hours(*hours))
        assert [o.start for o in found] == ([datetime(2026, 1, 2, tzinfo=UTC)] if overlap else [])


def test_hours_of_different_calls_are_not_in_each_others_way() -> None:
    one, other = with_hours("08:00-18:00 UTC", "17:00-08:00 UTC")
    for change in ({"unit": "output_tokens"}, {"service_tier": "batch"}, {"above": 7}, {"model": "m-2"}):
        assert not overlaps([one, structs.replace(other, **change)])
    ended = structs.replace(one, valid_from=other.valid_from, withdrawn=True, revision=2)
    assert not overlaps([one, ended, other]), "the first ends where the second begins"
    assert not overlaps(rows_of(list(price_file.shipped())))


def test_a_book_with_such_hours_is_refused_with_both_places() -> None:
    text = a_file(
        """
  - names: [m-1]
    prices:
      - {valid_from: 2026-01-01, time_window: "08:00-18:00 UTC", rates: {input_tokens: "1"}}
      - {valid_from: 2026-01-01, time_window: "17:00-19:00 UTC", rates: {input_tokens: "2"}}
"""
    )
    lines = price_file.parse(text)
    said = unusable(rows_of(lines), {place: line.place for place, line in enumerate(lines, 1)})
    assert said.startswith("the hours '08:00-18:00 UTC' (prices:9) and '17:00-19:00 UTC' (prices:10) of acme m-1")
