"""The benchmark on a real stack with few events: it runs, checks what it measures, and says what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

COMMAND = [sys.executable, "-c", "from meterstream.deploy.cli import main; main()", "bench"]
SMALL = ["--events", "3000", "--profile", "lean", "--seed", "7", "--json"]


def bench(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([*COMMAND, *SMALL, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.stack
@pytest.mark.campaign
def test_every_stage_runs_and_is_checked() -> None:
    report = bench("--no-peers", "--rate", "500", "--load-seconds", "2", "--counters", "2000")
    assert (report["seed"], report["events"], report["durable"]) == (7, 3000, True)
    (lean,) = report["profiles"]
    assert lean["rater"]["events"] == lean["sink"]["events"] == 3000
    assert lean["rater"]["rows_a_pack"] > 1
    assert lean["rater"]["rss_peak_bytes"] > 1 << 20
    assert [live["packs"] for live in lean["aggregator"]] == ["full packs", "live packs"]
    assert lean["aggregator"][0]["rows_a_pack"] > lean["aggregator"][1]["rows_a_pack"]
    assert lean["latency"]["events"] == 1000
    assert lean["latency"]["alerts"] > 0
    assert 0 < lean["latency"]["alert_p50_ms"] <= lean["latency"]["alert_p99_ms"] <= lean["latency"]["alert_max_ms"]
    assert {"rater", "aggregator", "sink-postgres", "kafka", "the load"} <= lean["latency"]["cpu_us"].keys()
    assert 0 < lean["latency"]["p50_ms"] <= lean["latency"]["p99_ms"] <= lean["latency"]["max_ms"]
    assert report["checked"] > 3 * 2900
    (state,) = report["state"]
    assert state["counters"] > 2000
    assert 0 < state["load_s"] < state["start_s"]
    assert state["changelog_bytes"] > 2000
    assert lean["peers"] == lean["ratios"] == []


def test_the_price_engine_alone_needs_no_server() -> None:
    report = bench("--only", "pricing")
    ours, *others = report["pricing"]
    assert (ours["name"], ours["events"], ours["same"], ours["unknown"]) == ("meterstream", 3000, 3000, 0)
    assert ours["cpu_us"] > 0
    told = {other["name"] for other in others} | {note.split()[2] for note in report["notes"]}
    assert told == {"genai-prices", "litellm"}, "each is measured, or the report says that it is not here"
    assert all(other["same"] == other["events"] for other in others if other["name"] == "genai-prices")
    assert report["profiles"] == []


@pytest.mark.campaign
def test_peers_do_the_same_work() -> None:
    report = bench("--peers", "--faust-events", "900", "--only", "sink", "--only", "aggregator")
    (lean,) = report["profiles"]
    assert [peer["name"] for peer in lean["peers"]] == [
        "rater's floor",
        "plain COPY",
        "Faust idiom",
        "Faust idiom, rater + aggregator",
        "Faust idiom, aggregator",
    ]
    assert lean["box"] is lean["latency"] is None
