"""Where a role answers over HTTP, for Prometheus and for whoever keeps processes running.

    /metrics          Prometheus' text format: meterstream.schema.metrics
    /health           what the role says of itself, as JSON; 200 where it is ready, else 503
    /health/live      200 while the role speaks, or still starts (`health.is_silent`). 503: it hangs, kill it
    /health/ready     200 while it works, hindered or not. 503: it starts, drains or has stopped
    /health/started   200 once it has worked

Threads answer, so a role that hangs still says so. At most CONNECTIONS_MAX ask at once; beyond that, whoever has been
asking longest is let go, so that those who never end their question neither keep others out nor use up the role. No
login: it listens on loopback unless `METERSTREAM_METRICS_HOST` says otherwise, and holds no tenant's name.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, ClassVar, Final, get_args

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from meterstream.deploy.running.health import HealthFile, Report, is_silent
from meterstream.schema.health import State
from meterstream.schema.metrics import DURATION_BOUNDS_S, Metric

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 2.0
"""Of each wait for whoever asks: less than the 3 s after which a container's check gives up."""
CONNECTIONS_MAX: Final = 16
STOP_WITHIN_S: Final = 0.1
READY: Final = ("running", "degraded")
_TOTAL: Final = "_total"
_METRICS: Final = {metric.value: metric for metric in Metric}


class _Server(ThreadingMixIn, TCPServer):
    # Not HTTPServer: that asks the name service who it is, which can take long.
    allow_reuse_address = True
    request_queue_size = CONNECTIONS_MAX
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._asking: dict[Any, None] = {}
        """Open connections, the oldest first."""
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._asking) >= CONNECTIONS_MAX:
                oldest = next(iter(self._asking))
                del self._asking[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and ends
            self._asking[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._asking.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # else whoever asked has gone, or was let go
            log.error("an answer over HTTP failed", exc_info=error)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class Endpoint:
    """Answers for one role from `start` to `stop`, in a thread of its own."""

    def __init__(self, health: HealthFile) -> None:
        """`health`: what the role says, read by the thread that answers."""
        self._health = health
        registry = CollectorRegistry()
        registry.register(_Figures(health))
        ProcessCollector(registry=registry)

        class Handler(_Handler):
            source = health
            figures = registry

        self._handler = Handler
        self._server: TCPServer | None = None

    def start(self, host: str, port: int) -> None:
        """Listens; the health says where. Where it cannot, that is logged, and the role meters all the same."""
        try:
            server = (_ServerV6 if ":" in host else _Server)((host, port), self._handler)
        except OSError as error:
            log.error("no /metrics and no /health: %s:%d: %s", host, port, error.strerror or error)
            return
        self._server = server
        threading.Thread(target=server.serve_forever, args=(STOP_WITHIN_S,), name="endpoint", daemon=True).start()
        taken = f"[{host}]" if ":" in host else host
        self._health.answers_at(f"{taken}:{server.server_address[1]}")

    def stop(self) -> None:
        """Safe to repeat; blocks for STOP_WITHIN_S. Who is being answered just then may get the end of it."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    source: ClassVar[HealthFile]
    figures: ClassVar[CollectorRegistry]
    timeout = TIMEOUT_S
    server_version = "meterstream"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self.figures))
            return
        answers = {"/health": _is_ready, "/health/ready": _is_ready, "/health/live": _is_live, "/health/started": None}
        if path not in answers:
            self._answer(
                HTTPStatus.NOT_FOUND, "text/plain", b"there are /metrics, /health, /health/{live,ready,started}\n"
            )
            return
        report, judge = self.source.last, answers[path]
        is_well = self.source.has_run if judge is None else judge(report)
        said = {
            "role": report.role,
            "state": report.state,
            "reason": report.reason,
            "age_s": round(_age_s(report), 3),
            "lag_records": report.lag_records,
        }
        code = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(code, "application/json", msgspec.json.encode(said) + b"\n")

    def _answer(self, code: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Questions are not logged: they come every few seconds."""


def _age_s(report: Report) -> float:
    return (datetime.now(UTC) - report.updated_at).total_seconds()


def _is_live(report: Report) -> bool:
    return not is_silent(report, now=datetime.now(UTC))


def _is_ready(report: Report) -> bool:
    return report.state in READY and _is_live(report)


class _Figures(Collector):
    """The last report in Prometheus' terms."""

    def __init__(self, health: HealthFile) -> None:
        self._health = health

    def collect(self) -> Iterable[Family]:
        report = self._health.last
        of_all = {
            Metric.STATE: {state: int(state == report.state) for state in get_args(State)},
            Metric.STARTED_SECONDS: report.started_at.timestamp(),
            Metric.REPORTED_SECONDS: report.updated_at.timestamp(),
            Metric.LAG_RECORDS: report.lag_records,
        }
        for name, value in (of_all | report.detail).items():
            if value is not None:
                yield _family(_METRICS[name], value, report.role)


def _family(metric: Metric, value: Any, role: str) -> Family:
    if metric is Metric.BATCH_SECONDS:
        histogram = HistogramMetricFamily(metric, metric.meaning, labels=["role"])
        histogram.add_metric([role], list(_buckets(value["counts"])), value["sum_s"])
        return histogram
    is_total = metric.endswith(_TOTAL)
    kind = CounterMetricFamily if is_total else GaugeMetricFamily
    labels = ["role", metric.label] if metric.label else ["role"]
    family = kind(metric.removesuffix(_TOTAL) if is_total else str(metric), metric.meaning, labels=labels)
    for label, number in value.items() if metric.label else [("", value)]:
        family.add_metric([role, label] if metric.label else [role], number)
    return family


def _buckets(counts: Iterable[int]) -> Iterator[tuple[str, float]]:
    """Prometheus counts upwards: each bound has all that is below it."""
    total = 0
    for bound, count in zip([*map(str, DURATION_BOUNDS_S), "+Inf"], counts, strict=True):
        total += count
        yield bound, total
