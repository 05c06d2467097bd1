"""Every shipped price, by the engine and by a model in fractions.

Around each day on which something changes, in each tier, with each kind of cached token, on both sides of each
threshold, and of each hour at which a window opens or closes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest

from meterstream.deploy.pricing.prices import as_row
from meterstream.processors.rating.book import Book
from meterstream.processors.rating.price import charge, charge_lines
from meterstream.schema import price_file
from meterstream.schema.catalog import Price
from meterstream.schema.units import PARENTS
from tests.oracle.shipped import Rate, begun, charged, openings, rates_by_name, rungs

FILES = sorted((Path(price_file.__file__).parent / "prices").glob("*.yaml"))
PROVIDERS = sorted({path.name.split(".")[0] for path in FILES})
"""A provider has one file that people keep, one that is generated, or both."""
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def rows() -> list[Price]:
    lines = price_file.shipped()
    return [as_row(line, number, 1, line.valid_from) for number, line in enumerate(lines, start=1)]


@pytest.fixture(scope="module")
def book(rows: list[Price]) -> Book:
    return Book(rows, 1)


def moments(rates: list[Rate]) -> set[datetime]:
    """Around each change, the first opening and closing of hours after it, and those of the week after the last one."""
    edges = {rate.begins + MICROSECOND for rate in rates}
    edges |= {rate.begins for rate in rates}
    last = max(rate.begins for rate in rates) + timedelta(days=8)
    for hours, begins in {(rate.terms[3], rate.begins) for rate in rates if rate.terms[3]}:
        edges |= {edge for opening in openings(hours, last) for edge in opening}
        edges |= set(next(opening for opening in openings(hours, begins) if opening[0] >= begins))
    return edges | {edge - MICROSECOND for edge in edges}


def usages(rates: list[Rate]) -> Iterator[dict[str, int]]:
    """Every unit alone with its totals, all of them at once, and one more and one less than each threshold."""
    units = {rate.unit for rate in rates}
    yield from (_with_totals([unit]) for unit in sorted(units))
    everything = _with_totals(sorted(units))
    yield everything
    for above, counted in {rate.terms[4:] for rate in rates if rate.terms[4]}:
        for quantity in (above, above + 1):
            yield {**everything, counted: max(quantity, everything.get(counted, 0)), "output_tokens": 1001}


def _with_totals(units: list[str]) -> dict[str, int]:
    """Odd quantities: what is counted in millions then has twelve places."""
    usage: dict[str, int] = {}
    for number, unit in enumerate(units):
        quantity, total = 7 + 2 * number, PARENTS[unit]
        usage[unit] = usage.get(unit, 0) + quantity
        while total is not None:
            usage[total] = usage.get(total, 0) + quantity
            total = PARENTS[total]
    return usage


def rates_of(provider: str) -> dict[tuple[str, str], list[Rate]]:
    """Of all its files."""
    found: dict[tuple[str, str], list[Rate]] = {}
    for path in FILES:
        if path.name.split(".")[0] == provider:
            for name, rates in rates_by_name(path).items():
                found.setdefault(name, []).extend(rates)
    return found


def a_model(match: str, name: str) -> str:
    """One that the name of a price stands for, and no other name of the files."""
    return {"exact": name, "prefix": f"{name}~x"}.get(match) or name.replace("[0-9]", "7").replace("*", "~x")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_engine_charges_what_the_files_say(book: Book, rows: list[Price], provider: str) -> None:
    """And every row is one by which some of these calls are charged."""
    seen: Counter[str] = Counter()
    charged_by: set[int] = set()
    known: dict[tuple[Rate, ...], tuple[str, str]] = {}
    by_name = rates_of(provider)
    for match, name in by_name:
        model = a_model(match, name)
        its = rungs(by_name, model)
        assert its[0] is by_name[match, name], "a name that no model has: a nearer one stands for all of them"
        rates = [rate for rung in its for rate in rung]
        is_first = known.setdefault(tuple(rates), (match, name)) == (match, name)
        tiers = sorted({rate.terms[0] for rate in rates} | {"", "standard", "one-of-no-price"})
        places = sorted({rate.terms[1] for rate in rates} | {""})
        calls = list(product(moments(rates), tiers, places, usages(rates)))
        # Names that cost the same have the same rows: of the second one only the days are looked at.
        for at, tier, place, usage in calls if is_first else calls[:: len(tiers) * 3 + 1]:
            found = book.lookup("t", provider, model, at, tier, place)
            amount = None if found is None else charge(usage, found)
            quantities = {unit: Fraction(quantity) for unit, quantity in usage.items()}
            expected = charged(begun(its, at), at, tier or "standard", quantities, place)
            assert (None if amount is None else Fraction(amount, 10**12)) == expected, (model, at, tier, place, usage)
            if found is not None and amount is not None:
                lines = charge_lines(usage, found)
                assert lines is not None and sum(line.amount_pico for line in lines) == amount
                charged_by |= {line.price_id for line in lines}
            seen["unpriced" if amount is None else "priced"] += 1
        seen[match] += 1
    print(provider, dict(seen))
    assert seen["priced"] and seen["unpriced"]
    assert {match for match, _ in by_name} <= set(seen)
    tried = set(known.values())
    mine = [row for row in rows if row.provider == provider and (row.match, row.model) in tried and not row.withdrawn]
    assert [row for row in mine if row.price_id not in charged_by] == []


def test_every_shipped_file_is_named_after_its_provider() -> None:
    assert set(PROVIDERS) == {line.provider for line in price_file.shipped()}
    since_ever = datetime(2000, 1, 1, tzinfo=UTC)
    days = {line.valid_from for line in price_file.shipped()}
    assert all(day == since_ever or day >= datetime(2020, 1, 1, tzinfo=UTC) for day in days)
