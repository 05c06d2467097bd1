"""How long the rater gathers rows: packs of tens of rows under load, and no wait where little flows."""

from __future__ import annotations

from random import Random

import pytest

from meterstream.processors.rating.route import linger_s

LEAST_S = 0.02
CELLS = 64
"""Four source partitions, sixteen priced ones."""


def settled(events_a_second: int) -> tuple[float, float]:
    """(rows a pack, seconds a round) after some rounds at this rate."""
    random = Random(1)
    wait_s = LEAST_S
    rows = packs = 1
    for _ in range(20):
        rows = max(1, round(events_a_second * wait_s))
        packs = len({random.randrange(CELLS) for _ in range(rows)})
        wait_s = linger_s(LEAST_S, packs)
    return rows / packs, wait_s


def test_under_load_a_pack_holds_tens_of_rows() -> None:
    rows_a_pack, wait_s = settled(20_000)
    assert rows_a_pack > 25 and wait_s <= 5 * LEAST_S


@pytest.mark.parametrize("rate", [1, 100, 400])
def test_where_little_flows_no_row_waits_longer_than_the_setting_says(rate: int) -> None:
    assert settled(rate)[1] == LEAST_S


def test_without_a_wait_there_is_none() -> None:
    assert linger_s(0, CELLS) == 0
