"""The benchmark's arithmetic and its checks, without servers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest

from meterstream.deploy.bench.budgets import BenchBudget
from meterstream.deploy.bench.checks import Found
from meterstream.deploy.bench.cpu import PostgresCpu, cpu_seconds, queued_seconds
from meterstream.deploy.bench.options import STAGES, Options, Stage
from meterstream.deploy.bench.peers import COPY, FAUST, FAUST_BOTH, FAUST_LIVE, FLOOR
from meterstream.deploy.bench.process import Child
from meterstream.deploy.bench.ratios import ratios
from meterstream.deploy.bench.results import AggregatorFigures, PeerFigures, ProfileFigures, RaterFigures
from meterstream.deploy.bench.stages import slope
from meterstream.deploy.bench.workload import make_live_lot, make_lot, rates_in_force
from meterstream.producers.simulate_totals import SimulationTotals
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.money import PICO

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def options(*stages: Stage, events: int = 10_000) -> Options:
    return Options(
        events=events,
        seed=1,
        profiles=("lean",),
        stages=stages,
        with_peers=False,
        faust_events=900,
        rate=100,
        load_s=1,
    )


@pytest.mark.parametrize(
    ("asked", "run"),
    [
        (("rater",), ("rater",)),
        (("sink",), ("rater", "sink")),
        (("latency",), ("latency",)),
        (("rater", "box"), ("rater", "sink", "box")),
        (STAGES, STAGES),
    ],
)
def test_a_stage_brings_what_it_needs(asked: tuple[Stage, ...], run: tuple[Stage, ...]) -> None:
    assert options(*asked).stages_to_run == run


def test_the_slope_takes_start_up_off() -> None:
    start_up, each = 0.75, 5e-6
    assert slope(start_up + 1_000 * each, start_up + 10_000 * each, 1_000, 10_000) == pytest.approx(5.0)


@pytest.mark.parametrize("profile", ["lean", "full"])
def test_summed_quantities_cost_what_their_events_cost(profile: str) -> None:
    rates, _ = rates_in_force(NOON)
    lot = make_lot("x", seed=3, events=3_000, profile="lean" if profile == "lean" else "full", now=NOON)
    each = SimulationTotals(rates)
    every = Fraction(0)
    for record in lot.records:
        lot.add(record)
        each.add(record)
        every += each.charge(record.events[0]) or 0
    assert lot.duplicates > 0
    assert (lot.accepted, lot.duplicates) == (each.accepted, each.duplicates)
    assert Fraction(lot.amount_pico(rates, with_duplicates=False), PICO) == each.amount
    assert Fraction(lot.amount_pico(rates, with_duplicates=True), PICO) == every


def test_the_live_load_rises_evenly() -> None:
    lot = make_live_lot("x", seed=3, rate=1_000, load_s=2, profile="lean", start=NOON)
    times = [record.events[0].time for record in lot.records]
    assert len(times) == 2_000
    assert times == sorted(times)
    assert times[0] >= NOON
    assert 0.9 < (times[1_000] - NOON).total_seconds() < 1.1


@pytest.mark.parametrize(("events", "amount_pico"), [(99, 5), (100, 4)])
def test_a_run_that_differs_is_void(events: int, amount_pico: int) -> None:
    Found(100, 5).must_be(100, 5, "here")
    with pytest.raises(MeterstreamError, match="the run is void: here"):
        Found(events, amount_pico).must_be(100, 5, "here")


def test_cpu_time_is_that_of_the_process() -> None:
    before, clock = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < clock + 0.1:
        pass
    assert 0.05 < cpu_seconds(os.getpid()) - before < 0.5


def test_cpu_time_of_a_process_that_is_gone() -> None:
    done = subprocess.Popen(["/bin/true"])
    done.wait()
    for look in (cpu_seconds, queued_seconds):
        with pytest.raises(ProcessLookupError):
            look(done.pid)


def test_of_two_on_one_processor_one_queues() -> None:
    pinned = "import os, time\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    busy = f"{pinned}\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    both = [subprocess.Popen([sys.executable, "-c", busy], stdin=-1, stdout=-1) for _ in "ab"]
    for one in both:
        assert one.stdout is not None and one.stdout.readline()
    assert max(queued_seconds(one.pid) for one in both) > 0.1
    for one in both:
        one.communicate(b"\n")


def test_a_backend_that_ended_is_no_background_work() -> None:
    before = PostgresCpu({1: 2.0, 2: 5.0}, background_s=10.0)
    after = PostgresCpu({2: 5.5, 3: 1.0}, background_s=12.25)  # 1 has ended and was collected with its 2 s
    assert after.backends_since(before, but={2}) == 1.0
    assert after.backends_since(before, but=()) == 1.5
    assert after.background_since(before, but=()) == 0.25


async def test_a_child_that_fails_is_told_of_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "input(); raise SystemExit('no such thing')"]
    async with Child("peer", command, log=tmp_path / "log") as child:
        child.check_alive()
        child.tell("go")
        with pytest.raises(MeterstreamError, match=r"(?s)peer ended with 1.*no such thing"):
            await child.ended(100)


async def test_a_child_has_its_own_share_of_the_processors(tmp_path: Path) -> None:
    async with Child("peer", [sys.executable, "-c", "input()"], log=tmp_path / "log") as child:
        assert os.getsid(child.pid) == child.pid


async def test_a_child_does_not_outlive_its_block(tmp_path: Path) -> None:
    async with Child("peer", [sys.executable, "-c", "input()"], log=tmp_path / "log") as child:
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_what_a_child_used_is_known_at_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"]
    async with Child("peer", command, log=tmp_path / "log") as child:
        usage = await child.ended(100)
    assert 0.3 <= usage.cpu_s < 3
    assert usage.rss_peak_bytes > 1 << 20


async def test_memory_is_the_childs_and_not_what_its_parent_held(tmp_path: Path) -> None:
    held = b"held" * (64 << 20)
    async with Child("peer", [sys.executable, "-c", "input()"], log=tmp_path / "log") as child:
        child.check_alive()
        child.tell("")
        usage = await child.ended(100)
    assert 0 < usage.rss_peak_bytes < len(held)


def test_ratios_stand_beside_the_bars() -> None:
    rater = RaterFigures(
        events=1, cpu_us=5.0, broker_us=0, rss_peak_bytes=0, record_bytes=0, rows_a_pack=1, packed_bytes=0
    )
    peers = [PeerFigures(FLOOR, 1, 4.0), PeerFigures(FAUST, 1, 300.0), PeerFigures(COPY, 1, -0.1, 0.0)]
    found = ratios(ProfileFigures("lean", rater=rater, peers=peers))
    assert [(ratio.value, ratio.bar) for ratio in found] == [(1.25, "≤ 1.37"), (60.0, "≥ 30")]


def test_the_aggregator_stands_beside_the_idiom_alone_and_with_the_rater() -> None:
    rater = RaterFigures(
        events=1, cpu_us=6.0, broker_us=0, rss_peak_bytes=0, record_bytes=0, rows_a_pack=1, packed_bytes=0
    )
    live = AggregatorFigures(
        packs="full packs", events=1, rows_a_pack=1, cpu_us=4.0, broker_us=0, rss_peak_bytes=0, aggregates=0,
        state_records=0, state_bytes=0,
    )  # fmt: skip
    peers = [PeerFigures(FAUST_BOTH, 1, 500.0), PeerFigures(FAUST_LIVE, 1, 300.0)]
    found = ratios(ProfileFigures("lean", rater=rater, aggregator=[live], peers=peers))
    assert [ratio.value for ratio in found] == [75.0, 50.0]


@pytest.mark.parametrize(("spent_pico", "reached"), [(0, set()), (49, {10}), (50, {10, 50}), (1000, {10, 50, 100})])
def test_a_level_is_reached_at_or_above_it(spent_pico: int, reached: set[int]) -> None:
    assert BenchBudget("acme", "b", 100, (10, 50, 100)).reached(spent_pico) == reached
