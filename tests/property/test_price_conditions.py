"""Prices for some calls only: whatever the rows and the call, the charge is that of a model in fractions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from meterstream.processors.rating.book import FOUND_MAX, Book
from meterstream.processors.rating.price import charge, charge_lines
from meterstream.schema.catalog import Price, decode_entry, encode_entry
from meterstream.schema.model_match import Pattern, pattern_of
from meterstream.schema.money import PICO
from tests.oracle.prices import PriceRow, Prices
from tests.oracle.rules import Usage

START = datetime(2024, 1, 1, tzinfo=UTC)
NAMES = [
    *[("exact", "m-1")] * 4,
    ("exact", "m-1-2024-08-06"),
    ("exact", "m-2"),
    ("prefix", "m-"),
    ("prefix", "m-1"),
    ("pattern", "*-1"),
    ("pattern", "?-[0-9]*"),
]
MODELS = [*["m-1"] * 5, "m-1-2024-08-06", "m-1@20240807", "m-1-2024-02-31", "m-2", "m-22", "x-1", "m-", "x", ""]
WINDOWS = {
    "": None,
    "16:30-00:30 Asia/Shanghai": ((0, 1, 2, 3, 4, 5, 6), 990, 480, "Asia/Shanghai"),
    "sat,sun 00:00-00:00 Europe/Berlin": ((5, 6), 0, 1440, "Europe/Berlin"),
    "fri 22:00-03:00 America/New_York": ((4,), 1320, 300, "America/New_York"),
}
THRESHOLDS = [0, 0, 0, 1000, 2000]
edges = st.sampled_from([0, 1, 999, 1000, 1001, 2000, 2001, 123_456])


@st.composite
def conditional_rows(draw: st.DrawFn) -> tuple[Price, PriceRow]:
    """The same row for the book and for the model."""
    match, model = draw(st.sampled_from(NAMES))
    tenant = draw(st.sampled_from([None, None, None, "t"]))
    percent = draw(st.sampled_from(["-10", "7.5", "-100", "12.345678"])) if tenant and draw(st.booleans()) else None
    unit = draw(
        st.sampled_from(["input_tokens", "input_tokens", "cache_read_tokens", "output_tokens", "output_tokens"])
    )
    if percent is not None and draw(st.booleans()):
        unit = "*"
    rate = draw(st.sampled_from(["0.15", "2.5", "10", "0.0000005", "3.333333333333333333"]))
    window = draw(st.sampled_from([*[""] * 6, *WINDOWS]))
    above = draw(st.sampled_from(THRESHOLDS))
    conditions: dict[str, Any] = {
        "match": match,
        "service_tier": draw(st.sampled_from(["", "", "", "", "batch", "standard"])),
        "region": draw(st.sampled_from(["", "", "", "", "eu"])),
        "processing": draw(st.sampled_from(["", "", "p"])),
        "above": above,
        "above_unit": draw(st.sampled_from(["input_tokens", "output_tokens"])) if above else "input_tokens",
        "withdrawn": draw(st.sampled_from([*[False] * 7, True])),
        "provider": "p",
        "model": model,
        "unit": unit,
        "currency": "USD",
        "per": 1_000_000,
        "valid_from": START + timedelta(days=draw(st.integers(0, 3))),
        "tenant": tenant,
    }
    row = PriceRow(
        **conditions,
        revision=0,
        rate=Fraction(rate),
        window=WINDOWS[window],
        percent=None if percent is None else Fraction(percent),
    )
    known = START
    return Price(
        **conditions,
        price_id=0,
        revision=1,
        rate=rate,
        known_from=known,
        source="",
        time_window=window,
        percent=percent,
    ), row


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    input_tokens = draw(edges)
    quantities = {"input_tokens": input_tokens, "output_tokens": draw(edges)}
    if draw(st.booleans()):
        quantities["cache_read_tokens"] = draw(st.integers(0, input_tokens))
    data: dict[str, Any] = {
        "provider": "p",
        "service_tier": draw(st.sampled_from(["", "batch", "default", "standard", "Batch", "flex"])),
        "region": draw(st.sampled_from(["", "eu", "us"])),
        "tags": draw(st.sampled_from([{}, {"processing": "p"}, {"other": "p"}])),
    }
    return Usage(
        tenant=draw(st.sampled_from(["t", "other"])),
        source="s",
        event_id="1",
        occurred_at=START + timedelta(minutes=draw(st.integers(-60, 9 * 24 * 60))),
        data=data,
        model=draw(st.sampled_from(MODELS)),
        quantities={unit: Fraction(quantity) for unit, quantity in quantities.items()},
    )


@settings(max_examples=300)
@given(st.lists(conditional_rows(), min_size=4, max_size=16), st.lists(usages(), min_size=4, max_size=12))
def test_any_call_is_charged_as_the_model_says(rows: list[tuple[Price, PriceRow]], calls: list[Usage]) -> None:
    prices: list[Price] = []
    model_rows: list[PriceRow] = []
    for number, (price, row) in enumerate(rows, start=1):
        fields = {name: getattr(price, name) for name in Price.__struct_fields__}
        prices.append(Price(**{**fields, "price_id": number, "revision": number}))
        model_rows.append(PriceRow(**{**vars(row), "revision": number}))
    entries = [decode_entry(encode_entry(price)[1]) for price in prices]
    book = Book([entry for entry in entries if isinstance(entry, Price)], len(prices))
    model = Prices(model_rows)
    for call in calls:
        data = call.data
        found = book.lookup(
            call.tenant, "p", call.model, call.occurred_at, data["service_tier"], data["region"], data["tags"]
        )
        usage = {unit: int(quantity) for unit, quantity in call.quantities.items()}
        amount = None if found is None else charge(usage, found)
        expected = model.charge(call).amount
        if expected is None and not any(usage.values()):
            continue  # nothing was used: whether that is 0 or unpriced depends on rates that nobody pays
        assert (None if amount is None else Fraction(amount, PICO)) == expected, (call, prices)
        if found is not None and amount is not None:
            lines = charge_lines(usage, found)
            assert lines is not None and sum(line.amount_pico for line in lines) == amount


@given(st.lists(conditional_rows(), min_size=2, max_size=12), st.lists(usages(), min_size=2, max_size=8), st.data())
def test_an_old_event_is_charged_what_it_was_with_the_book_as_then_known(
    rows: list[tuple[Price, PriceRow]], calls: list[Usage], data: st.DataObject
) -> None:
    """Whatever became known later, for whatever day: the revision of a row of the ledger says its charge for ever."""
    prices = [structs.replace(price, price_id=number, revision=number) for number, (price, _) in enumerate(rows, 1)]
    revision = data.draw(st.integers(0, len(prices)))
    then, again = Book(prices[:revision], revision), Book(data.draw(st.permutations(prices)), revision)
    for call in calls:
        context = call.data["service_tier"], call.data["region"], call.data["tags"]
        usage = {unit: int(quantity) for unit, quantity in call.quantities.items()}
        charges = [
            None if found is None else (charge(usage, found), charge_lines(usage, found), found.currency)
            for found in (
                book.lookup(call.tenant, "p", call.model, call.occurred_at, *context) for book in (then, again)
            )
        ]
        assert charges[0] == charges[1]


words = st.text("ab-1", max_size=7)
patterns = st.text("ab1?*-", max_size=7).filter(lambda text: "**" not in text)


@given(patterns, patterns, st.lists(words, max_size=30))
def test_patterns_that_share_a_name_overlap(one: str, other: str, names: list[str]) -> None:
    """And a pattern made of a name's own parts stands for it."""
    first, second = Pattern(one), Pattern(other)
    if any(first.matches(name) and second.matches(name) for name in names):
        assert first.overlaps(second) and second.overlaps(first)
    for name in names:
        assert first.matches(name) == pattern_of("exact", name).overlaps(first), (one, name)
        assert Pattern(name[:2] + "*" + name[4:]).matches(name)


def test_hostile_names_grow_nothing() -> None:
    row = Price(
        price_id=1,
        revision=1,
        provider="p",
        model="m-",
        match="prefix",
        unit="input_tokens",
        currency="USD",
        per=1,
        rate="1",
        valid_from=START,
        known_from=START,
        source="",
    )
    book = Book([row], 1)
    for number in range(2 * FOUND_MAX + 2):
        is_priced = book.lookup(f"t-{number}", "p", f"{'mx'[number % 2]}-{number}", START) is not None
        assert is_priced is (number % 2 == 0)
    assert len(book._found) <= FOUND_MAX and len(book._timelines) == 2
