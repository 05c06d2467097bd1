"""What a role answers over HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meterstream.deploy.running import endpoint
from meterstream.deploy.running import health as health_files
from meterstream.deploy.running.endpoint import Endpoint
from meterstream.deploy.running.health import HealthFile, read_all
from meterstream.schema.metrics import DURATION_BOUNDS_S, Durations, Metric


@pytest.fixture
def health(tmp_path: Path) -> HealthFile:
    return HealthFile(tmp_path, "rater")


@pytest.fixture
def address(health: HealthFile, tmp_path: Path) -> Iterator[str]:
    """host:port, as status shows it."""
    answering = Endpoint(health)
    answering.start("127.0.0.1", 0)
    health.write("starting")
    (role,) = read_all(tmp_path)
    assert role.report is not None and role.report.endpoint is not None
    yield role.report.endpoint
    answering.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(role.report.endpoint, "/health")


def ask(address: str, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = HTTPConnection(address, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def codes(address: str) -> tuple[int, int, int]:
    live, ready, started = (ask(address, f"/health/{what}")[0] for what in ("live", "ready", "started"))
    return live, ready, started


def test_it_tells_live_from_ready_from_started(health: HealthFile, address: str) -> None:
    assert codes(address) == (200, 503, 503)
    health.write("degraded", "the database is away", 12)
    assert codes(address) == (200, 200, 200)
    said = json.loads(ask(address, "/health?verbose")[1])
    assert (said["role"], said["state"], said["reason"], said["lag_records"]) == (
        "rater",
        "degraded",
        "the database is away",
        12,
    )
    health.write("draining")
    assert codes(address) == (200, 503, 200)


def test_a_role_that_hangs_is_not_live(health: HealthFile, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    health.write("running")
    assert codes(address) == (200, 200, 200)
    monkeypatch.setattr(health_files, "SILENT_AFTER", timedelta(seconds=-1))
    assert codes(address) == (503, 503, 200)
    health.write("starting")
    assert codes(address) == (200, 503, 200), "it says so once, and may take its time"


def test_figures_are_those_of_the_last_report(health: HealthFile, address: str) -> None:
    batches = Durations()
    for seconds in (0.005, 0.006, 31.0):
        batches.observe(seconds)
    events_total = {"priced": 5, "too_old": 1}
    detail = {
        Metric.RATER_EVENTS_TOTAL: events_total,
        Metric.LAG_SECONDS: None,
        Metric.BATCH_SECONDS: batches.figures(),
    }
    health.write("running", None, 7, **detail)
    code, body = ask(address, "/metrics")
    assert code == 200
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert Metric.LAG_SECONDS not in families, "unknown is not zero"
    assert [sample.value for sample in families[Metric.LAG_RECORDS].samples] == [7]
    events = families[Metric.RATER_EVENTS_TOTAL.removesuffix("_total")]
    assert events.type == "counter"
    assert {s.labels["disposition"]: s.value for s in events.samples if s.name.endswith("_total")} == {
        "priced": 5,
        "too_old": 1,
    }
    buckets = {s.labels["le"]: s.value for s in families[Metric.BATCH_SECONDS].samples if "le" in s.labels}
    assert (buckets["0.005"], buckets["0.01"], buckets["30.0"], buckets["+Inf"]) == (1, 2, 2, 3)
    assert len(buckets) == len(DURATION_BOUNDS_S) + 1
    assert families["process_resident_memory_bytes"].samples[0].value > 0


def test_other_questions_are_refused(address: str) -> None:
    assert ask(address, "/")[0] == 404
    assert ask(address, "/metrics", "POST")[0] == 501


def test_head_has_what_get_has_but_the_body(address: str) -> None:
    for path in ("/metrics", "/health/live", "/nothing"):
        assert ask(address, path, "HEAD") == (ask(address, path)[0], b"")


def test_any_number_that_ask_and_never_end_keep_nobody_out(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint._Handler, "timeout", 600.0)  # nobody is answered because another one's time is over
    host, port = address.split(":")
    asking: list[socket.socket] = []
    with contextlib.ExitStack() as stalled:
        for _ in range(3 * endpoint.CONNECTIONS_MAX):
            asking.append(stalled.enter_context(socket.create_connection((host, int(port)), timeout=10)))
            asking[-1].sendall(b"GET /metr")
            assert ask(address, "/health/live")[0] == 200
        assert all(is_let_go(each) for each in asking[: -endpoint.CONNECTIONS_MAX]), "there is a bound"


def is_let_go(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_one_that_says_nothing_is_let_go(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint._Handler, "timeout", 0.1)
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as silent:
        assert is_let_go(silent)


def test_a_port_that_is_taken_is_logged_and_the_role_goes_on(
    health: HealthFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        Endpoint(health).start("127.0.0.1", port)
    assert f"127.0.0.1:{port}" in caplog.text
    health.write("running")
    (role,) = read_all(tmp_path)
    assert role.report is not None and role.report.endpoint is None
