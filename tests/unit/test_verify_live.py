"""Live windows beside what Postgres says of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from meterstream.deploy.verify import live
from meterstream.schema.aggregate import ModelSums, Sums, Window
from meterstream.sinks.postgres.live import Numbers
from meterstream.sinks.postgres.rollups import SUM_MAX

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("counted", "held", "differs"),
    [
        (SUM_MAX + 5, SUM_MAX, False),
        (SUM_MAX, SUM_MAX, False),
        (SUM_MAX - 1, SUM_MAX, True),
        (SUM_MAX + 5, SUM_MAX - 1, True),
    ],
)
def test_a_sum_at_its_bound_says_at_least_so_many(counted: int, held: int, differs: bool) -> None:
    sums = {"currency": "USD", "events": 3, "input_tokens": counted, "amount": "1"}
    window = Window(
        tenant="acme",
        window="hour",
        start=BEGIN,
        end=BEGIN + timedelta(hours=1),
        partition=0,
        offset=1,
        settled=False,
        totals=(Sums(**sums),),  # type: ignore[arg-type]
        models=(ModelSums(provider="p", model="m", **sums),),  # type: ignore[arg-type]
    )
    stored = {("USD", "p", "m"): Numbers(events=3, input_tokens=held, amount=10**12)}
    assert (live._differs(window, stored) is not None) is differs
