"""What is shipped for Prometheus and Grafana speaks of metrics that there are, and finds the roles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from meterstream.deploy.running.discovery import FILE, Targets
from meterstream.deploy.running.health import HealthFile
from meterstream.schema.metrics import Metric
from meterstream.schema.rejection import REASONS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "meterstream.json").read_text())
OF_PROMETHEUS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
VALUES = {
    "disposition": {"priced", "unpriced", "unmetered", *REASONS, "ledger", "duplicates", "rejected", "alerts"},
    "state": {"starting", "running", "degraded", "draining", "stopped", "failed"},
    "kind": {"alerts", "aggregates", "state", "state_bytes"},
}


def expressions() -> Iterator[str]:
    for rule in RULES:
        yield rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    documentation = (ROOT / "docs" / "operate.md").read_text().partition("## Watching")[2].partition("\n## ")[0]
    yield from re.findall(r"^\| `(\w+[({<>= ][^`]*)`", documentation, re.MULTILINE)


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_can_be_asked(expression: str) -> None:
    promql_parser.parse(expression)
    names = set(re.findall(r"\b(?:meterstream|process)_\w+|\bup\b", expression))
    known = {*Metric, f"{Metric.BATCH_SECONDS}_bucket"} | OF_PROMETHEUS
    assert names and names <= known
    for label, values in re.findall(r'(\w+)[!=]~?"([^"]*)"', expression):
        assert label == "job" or set(values.split("|")) <= VALUES[label], (label, values)


def test_each_alarm_says_what_is_the_matter() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 10
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical") and rule["annotations"]["summary"]


def test_the_configuration_reads_what_the_supervisor_writes() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [(FOLDER / name).exists() for name in config["rule_files"]] == [True]
    [job] = config["scrape_configs"]
    [[path]] = [each["files"] for each in job["file_sd_configs"]]
    assert (FOLDER / path).resolve() == ROOT / ".meterstream" / FILE, "of the default home"
    assert job["job_name"] == "meterstream", "the alarms say so"


def targets(home: Path) -> dict[str, str]:
    found = json.loads((home / FILE).read_text())
    return {group["labels"]["instance"].partition("@")[0]: endpoint for group in found for endpoint in group["targets"]}


def test_a_role_that_failed_stays_a_target_until_it_answers_elsewhere(tmp_path: Path) -> None:
    told = Targets(tmp_path)
    told.refresh(["rater", "sink-postgres"])
    assert targets(tmp_path) == {}
    rater = HealthFile(tmp_path, "rater")
    rater.answers_at("127.0.0.1:1001")
    rater.write("running")
    HealthFile(tmp_path, "aggregator").write("running")
    told.refresh(["rater", "sink-postgres"])
    assert targets(tmp_path) == {"rater": "127.0.0.1:1001"}
    HealthFile(tmp_path, "rater", failures=1).write("failed", "it ended")
    told.refresh(["rater", "sink-postgres"])
    assert targets(tmp_path) == {"rater": "127.0.0.1:1001"}, "else nobody would see that it is away"
    rater.answers_at("127.0.0.1:1002")
    rater.write("running")
    told.refresh(["rater", "sink-postgres"])
    assert targets(tmp_path) == {"rater": "127.0.0.1:1002"}
    told.withdraw()
    assert targets(tmp_path) == {}
