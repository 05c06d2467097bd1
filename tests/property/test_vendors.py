"""Any body, however damaged, is read with quantities that fit, or not read at all."""

from __future__ import annotations

import random
import secrets
from contextlib import suppress
from copy import deepcopy
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterstream.processors.rating.book import Rate, RateSet
from meterstream.processors.rating.price import charge
from meterstream.processors.rating.vendors import Reading, Unreadable, read
from meterstream.schema.units import PARENTS, QUANTITY_MAX, QUANTITY_PLACES_MAX, UNITS, WHOLE_UNITS, ancestors, misfit
from tests.unit.test_vendors import GOLDEN
from tests.vendor_bodies import recorded

BODIES: list[Any] = [*(answer.body for answer in recorded()), *(body for body, _ in GOLDEN.values())]
ROOTS = sorted(unit for unit in UNITS if PARENTS[unit] is None)
PARTS = sorted(UNITS - set(ROOTS))
ONE_EACH = RateSet("USD", {unit: Rate(10**9, 1) for unit in UNITS})
"""Every unit has a price, and all cost the same."""
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 7, 10**12, 10**12 + 1, 2**63, 0.5, 1e-10, 1e300, -0.0, "", "3", "-3", "1e9", "x" * 200,
    "\x00", [], [None], [1], {}, {"a": "b"}, [{}],
]  # fmt: skip


def mutated(pick: random.Random, body: Any) -> tuple[Any, bool]:
    """A copy with one to four members gone, replaced, or taken from another body (then the second is True)."""
    is_mixed = False
    copy = deepcopy(body)
    for _ in range(pick.randint(1, 4)):
        holder, key = pick.choice(_places(copy))
        chance = pick.random()
        if chance < 0.3:
            del holder[key]
        elif chance < 0.8:
            holder[key] = deepcopy(pick.choice(JUNK))
        else:
            is_mixed = True
            other, name = pick.choice(_places(pick.choice(BODIES)))
            holder[key] = deepcopy(other[name])
        if not copy:
            break
    return copy, is_mixed


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def check(reading: Reading) -> None:
    """What must hold for every reading."""
    assert reading.usage and set(reading.usage) <= UNITS
    assert misfit(reading.usage) is None
    for unit, quantity in reading.usage.items():
        assert type(quantity) in (int, Decimal) and 0 <= quantity <= QUANTITY_MAX
        assert type(quantity) is int or unit not in WHOLE_UNITS
        assert quantity == round(Decimal(quantity), QUANTITY_PLACES_MAX)
        assert quantity > 0 or unit in ("input_tokens", "output_tokens")
    assert (reading.reported_amount is None) == (reading.reported_currency == "")
    if reading.reported_amount is not None:
        assert 0 <= Decimal(reading.reported_amount) < 10**7


def counts(value: Any, names: tuple[str, ...] = ()) -> list[Any]:
    """Every number above zero of a body that stands where recorded bodies count something that is billed."""
    if isinstance(value, dict):
        return [n for name, member in value.items() for n in counts(member, (*names, name))]
    if isinstance(value, list):
        return [n for member in value for n in counts(member, names)]
    is_count = bool(names) and names[-1] in COUNTED and NOT_BILLED.isdisjoint(names)
    return [value] if is_count and type(value) in (int, float) and value > 0 else []


def numbered(value: Any, name: str = "") -> set[str]:
    """The names of a body under which a number stands; a name such as `inference_geo` holds one only when damaged."""
    if isinstance(value, dict):
        return {n for inner, member in value.items() for n in numbered(member, inner)}
    if isinstance(value, list):
        return {n for member in value for n in numbered(member, name)}
    return {name} if type(value) in (int, float) else set()


NAMES = {name for body in BODIES for name in numbered(body)}
NOT_BILLED = {name for name in NAMES if "time" in name or "cost" in name} | {"cost_details", "costDollars"}
NOT_BILLED |= {"tokens", "cached_tokens", "api_version"}
"""Times, money, and tokens that nobody bills."""
COUNTED = NAMES - NOT_BILLED


def fuzz(seed: int, rounds: int) -> dict[str, int]:
    """Raises AssertionError with seed, turn and body for a wrong reading, and for what a reader should not raise."""
    pick = random.Random(seed)
    told = {"read": 0, "unreadable": 0}
    for turn in range(rounds):
        damaged, is_mixed = mutated(pick, pick.choice(BODIES))
        try:
            told[judged(damaged, is_mixed)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, turn {turn}: {error!r} for {damaged}") from error
    return told


def judged(damaged: Any, is_mixed: bool) -> str:
    """`read` or `unreadable`. Raises AssertionError where the reading is wrong."""
    try:
        reading = read(msgspec.json.encode(damaged))
    except Unreadable as error:
        if not 0 < len(str(error)) < 1000:
            raise AssertionError(f"a reason of {len(str(error))} characters") from error
        return "unreadable"
    check(reading)
    if not is_mixed and not any(reading.usage.values()):
        assert not counts(damaged), f"zero is read only where zero is stated: {reading}"
    totals = sum(quantity for unit, quantity in reading.usage.items() if PARENTS[unit] is None)
    assert charge(reading.usage, ONE_EACH) == totals * 10**9, "every unit is on one line: no more, no less, no zero"
    return "read"


def test_damaged_bodies() -> None:
    told = fuzz(20261121, 3000)
    assert min(told.values()) > 300, "the damage is neither always fatal nor never"


@pytest.mark.campaign
@pytest.mark.parametrize("tenth", range(10))
def test_a_million_damaged_bodies(tenth: int) -> None:
    """A hundred thousand each; which ones chance decides, and a failure names its seed."""
    seed = secrets.randbits(32)
    told = fuzz(seed, 100_000)
    assert min(told.values()) > 10_000, f"seed {seed}: {told}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["usage", "model", "meta", "x"]), json_values))
def test_any_object(body: dict[str, Any]) -> None:
    with suppress(Unreadable):
        check(read(msgspec.json.encode(body)))


@given(st.sampled_from(BODIES), st.sets(st.sampled_from(PARTS)))
def test_no_token_is_on_two_lines_of_a_charge(body: Any, priced: set[str]) -> None:
    """At one pico a unit, whichever parts have a price of their own, a charge is the sum of the totals."""
    usage = read(msgspec.json.encode(body)).usage
    rates = RateSet("USD", {unit: Rate(10**9, 1) for unit in (*ROOTS, *priced)})
    totals = sum(quantity for unit, quantity in usage.items() if PARENTS[unit] is None)
    assert charge(usage, rates) == totals * 10**9


@given(st.sampled_from(BODIES), st.sampled_from(sorted(UNITS)))
def test_each_unit_is_paid_by_its_nearest_priced_total(body: Any, only: str) -> None:
    """With one price alone, a charge is that unit's quantity, or there is none: never a zero for what was used."""
    usage = read(msgspec.json.encode(body)).usage
    amount = charge(usage, RateSet("USD", {only: Rate(10**9, 1)}))
    is_covered = all(only in (unit, *ancestors(unit)) for unit, quantity in usage.items() if quantity)
    assert amount == (usage.get(only, 0) * 10**9 if is_covered else None)
