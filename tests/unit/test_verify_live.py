"""Live windows beside what Postgres says of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from meterstream.deploy.cli import verify as command
from meterstream.deploy.verify import live
from meterstream.deploy.verify.run import Result
from meterstream.schema.aggregate import ModelSums, Sums, Window
from meterstream.sinks.postgres.live import Numbers
from meterstream.sinks.postgres.rollups import SUM_MAX
from meterstream.sinks.postgres.verify import Check, Report

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


def test_what_was_not_compared_is_named_where_it_would_be_said_that_all_agrees(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nothing = Check("c", 0, "windows", 0, ())
    report = Report(BEGIN, None, (), 0, ())
    for behind, said in (
        ((), "All of it agrees."),
        ((0, 3), "What was compared agrees; not compared: live aggregates of partitions 0, 3 of usage.priced."),
    ):
        found = live.LiveReport(nothing, {}, nothing, {}, 0, 0, behind, ())
        command._print_result(Result(report, None, found))
        assert capsys.readouterr().out.splitlines()[-1] == said
