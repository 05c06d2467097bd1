"""Properties of the rater's pure parts, against a model in fractions that is written apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from meterstream.processors.rating.book import Book
from meterstream.processors.rating.price import charge, charge_lines
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.schema.catalog import Price
from meterstream.schema.ids import claim_key, id_time_ms, is_timed, uuid7
from meterstream.schema.money import PICO, divide_half_even, format_amount, to_decimal, to_pico
from meterstream.schema.pack import decode_pack
from meterstream.schema.position import SourcePartition, last_before, position_of, split_position
from meterstream.schema.units import PARENTS

START = datetime(2024, 1, 1, tzinfo=UTC)
UNITS = ["input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens"]

rates = st.decimals(min_value=0, max_value=200, places=6, allow_nan=False).map(lambda rate: f"{rate:f}")


def price(number: int, unit: str, rate: str, *, days: int = 0, **more: Any) -> Price:
    return Price(
        price_id=number,
        revision=more.pop("revision", 1),
        provider="p",
        model="m",
        unit=unit,
        currency="USD",
        per=more.pop("per", 1_000_000),
        rate=rate,
        valid_from=START + timedelta(days=days),
        known_from=START,
        source="test",
        **more,
    )


@st.composite
def usages(draw: st.DrawFn) -> dict[str, int]:
    """Inclusive totals: each part within what is left of its total."""
    count = st.integers(min_value=0, max_value=10**9)
    usage = {"input_tokens": draw(count), "output_tokens": draw(count)}
    if draw(st.booleans()):
        usage["cache_read_tokens"] = draw(st.integers(0, usage["input_tokens"]))
        left = usage["input_tokens"] - usage["cache_read_tokens"]
        if draw(st.booleans()):
            usage["cache_write_tokens"] = draw(st.integers(0, left))
            if draw(st.booleans()):
                usage["cache_write_1h_tokens"] = draw(st.integers(0, usage["cache_write_tokens"]))
    order = draw(st.permutations(list(usage)))
    return {unit: usage[unit] for unit in order}


def model_charge(usage: dict[str, int], prices: dict[str, Fraction]) -> int | None:
    """Each token goes to its own unit or climbs to the nearest priced total."""
    own = dict(usage)
    for unit, quantity in usage.items():
        parent = PARENTS[unit]
        if parent is not None:
            own[parent] -= quantity
    billed: dict[str, int] = {}
    for unit, quantity in own.items():
        payer: str | None = unit
        while payer is not None and payer not in prices:
            payer = PARENTS[payer]
        if payer is None:
            if usage[unit]:
                return None
            continue
        billed[payer] = billed.get(payer, 0) + quantity
    amount = 0
    for payer, quantity in billed.items():
        exact = quantity * prices[payer] * PICO
        amount += round(exact)  # Fraction rounds half to even
    return amount


@given(usages(), st.dictionaries(st.sampled_from(UNITS), rates, min_size=1), st.sampled_from([1, 1000, 10**6, 10**9]))
def test_a_charge_is_the_sum_of_its_lines_to_the_last_pico(
    usage: dict[str, int], by_unit: dict[str, str], per: int
) -> None:
    book = Book([price(i, unit, rate, per=per) for i, (unit, rate) in enumerate(by_unit.items())], 1)
    rate_set = book.lookup("t", "p", "m", START)
    assert rate_set is not None
    expected = model_charge(usage, {unit: Fraction(rate) / per for unit, rate in by_unit.items()})
    assert charge(usage, rate_set) == expected
    assert charge(usage, rate_set) == expected, "the remembered plan gives the same"
    lines = charge_lines(usage, rate_set)
    if lines is None:
        assert expected is None
        return
    assert sum(line.amount_pico for line in lines) == expected
    assert len({line.unit for line in lines}) == len(lines)
    for line in lines:
        row = list(by_unit).index(line.unit)
        assert (line.price_id, line.per) == (row, per), "each line names the row that says its rate"
        exact = Fraction(line.quantity) * Fraction(line.numerator, line.denominator)
        assert exact == Fraction(line.quantity) * Fraction(by_unit[line.unit]) / per * PICO
        assert line.amount_pico - line.rounding_pico == exact and abs(line.rounding_pico) <= Fraction(1, 2)


def test_lines_say_where_each_token_is_charged_and_how_it_was_rounded() -> None:
    rows = [
        price(1, "input_tokens", "2.5"),
        price(2, "cache_read_tokens", "0.0000005"),
        price(3, "seconds", "1", per=3),
    ]
    rate_set = Book(rows, 1).lookup("t", "p", "m", START)
    assert rate_set is not None
    usage: dict[str, int | Decimal] = {
        "input_tokens": 10,
        "cache_read_tokens": 3,
        "seconds": Decimal("0.5"),
        "output_tokens": 0,
    }
    lines = charge_lines(usage, rate_set)
    assert lines is not None
    assert [tuple(line) for line in lines] == [
        ("input_tokens", 7, 2_500_000, 1, 10**6, 1, 17_500_000, 0, None),
        ("cache_read_tokens", 3, 1, 2, 10**6, 2, 2, Fraction(1, 2), None),
        ("seconds", Decimal("0.5"), 10**12, 3, 3, 3, 166_666_666_667, Fraction(1, 3), None),
    ]
    assert charge_lines({**usage, "output_tokens": 1}, rate_set) is None, "one quantity without a price"


@given(
    st.decimals(min_value=0, max_value=10**12, places=9, allow_nan=False),
    st.integers(0, 10**12),
    st.integers(0, 10**18),
)
def test_a_fraction_at_a_whole_rate_is_rounded_once_and_never_by_decimal(
    seconds: Decimal, requests: int, rate_pico: int
) -> None:
    rows = [
        price(1, "seconds", f"{to_decimal(rate_pico):f}", per=1),
        price(2, "requests", "0.000000000007", per=1),
    ]
    rate_set = Book(rows, 1).lookup("t", "p", "m", START)
    assert rate_set is not None
    expected = round(Fraction(seconds) * rate_pico) + requests * 7
    assert charge({"seconds": seconds, "requests": requests}, rate_set) == expected


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**12))
def test_division_rounds_half_to_even(numerator: int, denominator: int) -> None:
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


@given(st.integers(-(10**37), 10**37))
def test_amounts_survive_the_way_to_decimal_and_text(pico: int) -> None:
    assert to_pico(to_decimal(pico)) == pico
    assert Fraction(format_amount(pico)) == Fraction(pico, PICO)


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 6), st.booleans(), st.booleans(), rates), min_size=1, max_size=12
    ),
    st.integers(-1, 45),
)
def test_the_book_finds_the_row_in_force(rows: list[tuple[int, int, bool, bool, str]], day: int) -> None:
    prices = [
        price(i, "output_tokens", rate, days=days, revision=revision, withdrawn=withdrawn, tenant="t" if own else None)
        for i, (days, revision, withdrawn, own, rate) in enumerate(rows)
    ]
    moment = START + timedelta(days=day)
    found = Book(prices, 6).lookup("t", "p", "m", moment)
    expected = None
    for tenant in ("t", None):
        known = [p for p in prices if p.tenant == tenant and p.valid_from <= moment]
        best = max(known, key=lambda p: (p.valid_from, p.revision, p.price_id), default=None)
        if best is not None and not best.withdrawn:
            expected = best
            break
    if expected is None:
        assert found is None
    else:
        assert found is not None
        rate = found.rates["output_tokens"]
        assert Fraction(rate.numerator, rate.denominator) == Fraction(expected.rate) * PICO / 10**6


def record(offset: int, tenants: list[str]) -> Any:
    events = [
        {
            "specversion": "1.0",
            "type": "meterstream.usage.v1",
            "id": f"{offset}/{index}",
            "source": "s",
            "time": "2024-01-02T00:00:00Z",
            "tenant": tenant,
            "data": {"provider": "p", "model": "m", "operation": "chat", "usage": {"output_tokens": 1}},
        }
        for index, tenant in enumerate(tenants)
    ]
    return SimpleNamespace(
        offset=offset,
        timestamp=int((START + timedelta(days=1)).timestamp() * 1000),
        key=None,
        value=b"" if not tenants else msgspec.json.encode(events),
        headers=(),
    )


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=5), max_size=40),
    st.lists(st.integers(1, 7), max_size=30),
    st.integers(0, 3),
    st.integers(0, 10**6),
)
def test_any_batching_covers_each_position_once_and_without_a_gap(
    records: list[list[str]], batches: list[int], cut_every: int, start: int
) -> None:
    """However records are batched and packs are cut: ranges join on, and every event is in exactly one pack."""
    partitions = 4
    rater = Rater(Router(partitions), Book([price(1, "output_tokens", "1")], 1))
    outbox = Outbox(SourcePartition(1, 3), start_offset=start, priced=partitions, rejected=2)
    covered = [last_before(start)] * partitions
    seen: list[int] = []

    def take(partition: int) -> None:
        for packed in outbox.cut(partition):
            pack = decode_pack(packed.value)
            assert pack.lo == covered[partition] + 1 and pack.lo <= pack.hi
            assert all(pack.lo <= row.position <= pack.hi for row in pack.rows)
            assert pack.rows and list(pack.rows) == sorted(pack.rows, key=lambda row: row.position)
            covered[partition] = pack.hi
            seen.extend(row.position for row in pack.rows)

    place = 0
    for turn, size in enumerate([*batches, len(records)]):
        batch = [record(start + place + i, tenants) for i, tenants in enumerate(records[place : place + size])]
        place += len(batch)
        rater.rate("usage.raw", outbox, batch, is_backfill=False)
        for partition in sorted(outbox.waiting):
            if cut_every == 0 or (turn + partition) % (cut_every + 1) == 0:
                take(partition)
    for partition in range(partitions):
        take(partition)
        coverage = outbox.cover_priced(partition)
        if coverage is not None:
            assert coverage.lo == covered[partition] + 1
            covered[partition] = coverage.hi
    assert covered == [last_before(start + len(records))] * partitions
    rejected = [split_position(r.position)[0] for r in outbox.rejected]
    assert rejected == [start + i for i, tenants in enumerate(records) if not tenants]
    expected = [position_of(start + i, j) for i, tenants in enumerate(records) for j in range(len(tenants))]
    assert sorted(seen) == expected


names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


@given(names, names, names, names)
def test_claims_keep_tenants_apart(tenant: str, source: str, other_tenant: str, other_source: str) -> None:
    same = (tenant, source) == (other_tenant, other_source)
    assert (claim_key(tenant, source, "x", None) == claim_key(other_tenant, other_source, "x", None)) is same


@given(st.integers(0, 2**43), st.integers(0, 2**74 - 1))
def test_uuid7_carries_its_time(moment_ms: int, bits: int) -> None:
    text = uuid7(datetime.fromtimestamp(moment_ms / 1000, UTC), bits)
    time_ms = id_time_ms(text)
    assert time_ms == moment_ms
    assert is_timed(claim_key("t", "s", text, time_ms))


@given(names)
def test_any_text_is_an_id(text: str) -> None:
    time_ms = id_time_ms(text)
    assert is_timed(claim_key("t", "s", text, time_ms)) is (time_ms is not None)


@given(st.binary(max_size=300))
def test_any_bytes_have_a_disposition(value: bytes) -> None:
    rater = Rater(Router(4), Book([], 0))
    outbox = Outbox(SourcePartition(1, 0), start_offset=0, priced=4, rejected=1)
    raw: Any = SimpleNamespace(offset=0, timestamp=0, key=None, value=value, headers=())
    rater.rate("usage.raw", outbox, [raw], is_backfill=False)
    assert rater.dispositions.total() >= 1
