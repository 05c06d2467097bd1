"""One call's trace over the real pipeline: service, sender, rater, sink and aggregator, each linked to its source."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meterstream.deploy.running import supervisor
from meterstream.producers import AsyncMeterClient
from meterstream.schema.settings import Settings
from tests.prepared import without_prices

pytestmark = pytest.mark.stack

DEADLINE_S = 120.0
DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "operate.md").read_text("utf-8")
[QUERY] = re.findall(r"```sql traces\n(.*?)```", DOCUMENTATION, re.DOTALL)


class Got(NamedTuple):
    service: str
    name: str
    span_id: bytes
    links: frozenset[bytes]


class Collector:
    """What an OpenTelemetry collector is to the roles: OTLP over HTTP, in protobuf."""

    def __init__(self) -> None:
        self.spans: list[Got] = []
        got = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                for resource in request.resource_spans:
                    names = {each.key: each.value.string_value for each in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            links = frozenset(link.span_id for link in span.links)
                            got.append(Got(names["service.name"], span.name, span.span_id, links))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    def following(self, name: str, before: bytes) -> Got | None:
        """The span of this name that links to that one."""
        return next((span for span in list(self.spans) if span.name == name and before in span.links), None)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, args=(0.05,))
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


@pytest.fixture(scope="module")
async def settings(home: Path, collector: Collector) -> AsyncIterator[Settings]:
    prepared = await without_prices(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.server_port}")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        supervisor.start(home, supervisor.known(()), bind_to_parent=True)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ
    yield prepared
    supervisor.stop(home)


async def test_a_call_is_followed_into_the_ledger(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, of_service = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(of_service))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    async with AsyncMeterClient("shop", bootstrap_servers=settings.kafka_bootstrap, on_error="raise") as meter:
        with provider.get_tracer("service").start_as_current_span("request") as request:
            event_id = await meter.record(
                tenant="acme", provider="openai", model="gpt-4o", operation="chat", usage={"input_tokens": 5}
            )
        assert await meter.flush(DEADLINE_S)
    [sent] = [span for span in of_service.get_finished_spans() if span.name == "send usage.raw"]
    assert [link.context.span_id for link in sent.links] == [request.get_span_context().span_id]
    assert sent.context is not None
    sent_id = sent.context.span_id.to_bytes(8, "big")
    async with asyncio.timeout(DEADLINE_S):
        while (rated := collector.following("rate usage", sent_id)) is None:
            await asyncio.sleep(0.05)  # a poll with a deadline
        while (stored := collector.following("store usage", rated.span_id)) is None:
            await asyncio.sleep(0.05)
        while (counted := collector.following("count usage", rated.span_id)) is None:
            await asyncio.sleep(0.05)
    assert [span.service for span in (rated, stored, counted)] == [
        "meterstream-rater", "meterstream-sink-postgres", "meterstream-aggregator",
    ]  # fmt: skip
    connection = await asyncpg.connect(settings.postgres_reader_dsn.get_secret_value())
    try:
        found = await connection.fetch(QUERY)
    finally:
        await connection.close()
    assert [tuple(row) for row in found] == [(event_id, f"{request.get_span_context().trace_id:032x}")]
    provider.shutdown()
