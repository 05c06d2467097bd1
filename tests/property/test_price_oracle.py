"""Every shipped price beside genai-prices, which computes by itself: equal to 1e-12, or looked at by a person."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import pytest

from meterstream.schema import price_file
from tests.oracle import listed
from tests.oracle.listed import NOW, TIERS, Case, Reviewed


def unexplained(cases: Iterable[Case], used: set[Reviewed]) -> tuple[int, list[Case]]:
    """(how many there were, those that differ without a reason); `used` gets the reasons that were needed."""
    count = 0
    wrong: list[Case] = []
    for case in cases:
        count += 1
        if case.is_equal or listed.is_before_the_first_price(case):
            continue
        reasons = [entry for entry in listed.reviewed() if entry.covers(case)]
        used.update(reasons)
        if not reasons:
            wrong.append(case)
    return count, wrong


def test_the_list_computes_the_same_amounts() -> None:
    """A part: one name in seven, today."""
    cases = itertools.chain.from_iterable(
        listed.cases(provider, model, [NOW], [""], at_thresholds=True)
        for provider, model in itertools.islice(listed.names(), 0, None, 7)
    )
    count, wrong = unexplained(cases, set())
    assert not wrong
    assert count > 1_000


@pytest.mark.campaign
def test_the_list_computes_the_same_amounts_everywhere() -> None:
    used: set[Reviewed] = set()
    total = 0
    counts: Counter[str] = Counter()
    unlisted: set[tuple[str, str]] = set()
    for provider, model in listed.names():
        if listed.found(provider, model) is None:
            unlisted.add((provider, model))
            continue
        cases = listed.cases(provider, model, listed.moments(provider, model), TIERS, at_thresholds=True)
        count, wrong = unexplained(cases, used)
        assert not wrong, wrong[:3]
        total += count
        counts[provider] += count
    print(f"{total} amounts, {len(used)} reviewed names:", dict(counts))
    assert set(counts) == {line.provider for line in price_file.shipped()} - listed.NOT_LISTED
    assert total > 40_000
    assert used == set(listed.reviewed()), "these are equal now: remove their lines from tests/data/price_oracle.yaml"
    assert all(provider == "cohere" or model.startswith("us-gov.") for provider, model in unlisted), unlisted
