"""Traces: from a service's span over the event to the row, and nothing at all where nobody traces."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from meterstream.deploy.running import tracing as role_tracing
from meterstream.processors.rating.route import Outbox
from meterstream.producers import MemoryTransport, MeterClient
from meterstream.producers.transport import Transport
from meterstream.schema import tracing
from meterstream.schema.cloudevents import STRUCTURED_HEADERS, Headers
from meterstream.schema.pack import decode_pack
from meterstream.schema.position import SourcePartition
from tests.unit.test_examples import EXAMPLES, Record, load, make_rater

CALL: dict[str, Any] = {"tenant": "acme", "provider": "openai", "operation": "chat", "usage": {"input_tokens": 3}}
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """The service's own; the global one can be set only once in a process."""
    made = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made)
    return made


@pytest.fixture
def spans(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    provider.shutdown()


def called(name: str, spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def of(span: trace.Span | ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def test_an_event_names_the_span_in_which_it_was_recorded(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    transport = MemoryTransport()
    tracer = provider.get_tracer("service")
    with MeterClient("shop", transport=transport, on_error="raise") as meter:
        with tracer.start_as_current_span("request") as request:
            meter.record(**CALL)
            meter.record(**CALL)
        meter.record(**CALL)
        meter.flush()
    named = "00-{:032x}-{:016x}-{:02x}".format(*of(request), request.get_span_context().trace_flags)
    assert [event.get("traceparent") for event in transport.events] == [named, named, None]
    sends = called("send usage.raw", spans)
    assert {link for send in sends for link in links(send)} == {of(request)}
    assert all(len(links(send)) <= 1 for send in sends), "once a batch, however many events"
    assert all(send.parent is None for send in sends), "the sender belongs to no request"
    in_headers = {dict(record.headers)["traceparent"][3:52].decode() for record in transport.records}
    assert in_headers == {"{:032x}-{:016x}".format(*of(send)) for send in sends}


def test_what_is_not_sampled_is_not_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: silent)
    transport = MemoryTransport()
    with (
        MeterClient("shop", transport=transport, on_error="raise") as meter,
        silent.get_tracer("service").start_as_current_span("request"),
    ):
        meter.record(**CALL)
        meter.flush()
    assert "traceparent" not in transport.events[0]


def test_a_send_that_failed_says_so(spans: InMemorySpanExporter) -> None:
    class OnceAway(MemoryTransport):
        tries = 0

        async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
            self.tries += 1
            if self.tries == 1:
                raise OSError("a text with acme in it")
            await super().send(topic, key, value, headers)

    away: Transport = OnceAway()
    with MeterClient("shop", transport=lambda: away) as meter:  # type: ignore[arg-type, return-value]
        meter.record(**CALL)
        assert meter.flush(60)
    failed, sent = called("send usage.raw", spans)
    assert (failed.status.status_code.name, failed.status.description) == ("ERROR", None), "no text: it names tenants"
    assert failed.attributes is not None and failed.attributes["error.type"] == "OSError"
    assert sent.attributes is not None and sent.attributes["meterstream.events"] == 1


def rated(value: dict[str, Any] | None, *headers: tuple[str, bytes], data: bytes = b"") -> Outbox:
    _, record = load(EXAMPLES / "valid" / "chat_lean.json")
    outbox = Outbox(SourcePartition(1, 0), start_offset=0, priced=16, rejected=4)
    body = data if value is None else json.dumps(value).encode()
    rater = make_rater()
    rater.rate("usage.raw", outbox, [Record(0, record.timestamp, b"acme", body, headers)], is_backfill=False)
    return outbox


def row_of(outbox: Outbox) -> Any:
    assert not outbox.rejected, outbox.rejected
    [partition] = outbox.waiting
    [row] = decode_pack(outbox.cut(partition)[0].value).rows
    return row


def lean() -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EXAMPLES / "valid" / "chat_lean.json").read_text())["value"]
    return event


def test_the_row_names_the_trace() -> None:
    event = lean()
    traced = row_of(rated({**event, "traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}, *STRUCTURED_HEADERS))
    assert json.loads(traced.attributes)["trace_id"] == TRACE_ID
    plain = row_of(rated(event, *STRUCTURED_HEADERS))
    assert plain.attributes is None
    assert (traced.claim, traced.body) == (plain.claim, plain.body), "a retry in another span is the same event"


def test_binary_mode_has_it_in_a_header() -> None:
    event = lean()
    attributes = {name: text for name, text in event.items() if name != "data"}
    attributes["traceparent"] = f"00-{TRACE_ID}-{SPAN_ID}-01"
    headers = [(f"ce_{name}", str(text).encode()) for name, text in attributes.items()]
    row = row_of(rated(None, *headers, data=json.dumps(event["data"]).encode()))
    assert json.loads(row.attributes)["trace_id"] == TRACE_ID


@pytest.mark.parametrize(
    "wrong",
    [7, None, {"a": [1]}, "", "00-1-1-00", f"00-{TRACE_ID}-{SPAN_ID}-00", f"00-{TRACE_ID}-{SPAN_ID}-01\n", "é" * 9000],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_context_costs_nobody_a_charge(wrong: object) -> None:
    row = row_of(rated({**lean(), "traceparent": wrong}, *STRUCTURED_HEADERS))
    assert row.attributes is None


def test_links_are_bounded_and_nonsense_is_passed_over(spans: InMemorySpanExporter) -> None:
    batch = tracing.Batch("rate usage", "consumer")
    assert batch.headers == []
    good = [(("traceparent", f"00-{number:032x}-{SPAN_ID}-01".encode()),) for number in range(1, 300)]
    batch.take_records([(("traceparent", b"\xff"),), (("x", b""), ("traceparent", b"")), *good, *good])
    [(name, context)] = batch.headers
    assert (name, len(context)) == ("traceparent", 55)
    batch.end(rows=3)
    batch.end()
    batch.take_records(good)
    [span] = called("rate usage", spans)
    assert len(links(span)) == tracing.LINKS_MAX == len(set(links(span)))


def test_without_opentelemetry_nothing_of_it_is_loaded() -> None:
    program = """
import sys
import threading
from meterstream.producers import MemoryTransport, MeterClient
from meterstream.schema import tracing
transport = MemoryTransport()
with MeterClient("shop", transport=transport, on_error="raise") as meter:
    meter.record(tenant="acme", provider="p", operation="chat", usage={"requests": 1})
    meter.flush()
batch = tracing.Batch("x", "consumer")
batch.take_records([(("traceparent", b"00-1"),)])
assert batch.headers == [] and batch.end() is None and "traceparent" not in transport.events[0]
from meterstream.deploy.running import tracing as roles
import meterstream.processors.rating.service, meterstream.sinks.postgres.service
import meterstream.processors.aggregation.service
roles.start("rater"); roles.stop()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PATH": ""})
    assert found.stdout == "[]\n", found.stderr


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "x"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "otlp_proto_http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
    ],
)
def test_the_standard_variables_say_where_to(variables: dict[str, str], name: str | None) -> None:
    assert role_tracing.wanted(variables) == name


def test_what_is_not_installed_is_named_and_the_role_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier_pigeon")
    with caplog.at_level(logging.ERROR):
        role_tracing.start("rater")
        role_tracing.stop()
    assert "carrier_pigeon" in caplog.text and 'pip install "meterstream[otel]"' in caplog.text


def test_a_collector_that_hangs_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_over = threading.Event()

    class Hangs:
        def shutdown(self) -> None:
            is_over.wait()

    monkeypatch.setattr(role_tracing, "_provider", Hangs())
    monkeypatch.setattr(role_tracing, "STOP_WITHIN_S", 0.01)
    role_tracing.stop()
    assert "the newest spans are lost" in caplog.text
    is_over.set()
