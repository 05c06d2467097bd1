"""A stream is charged once: by its final usage, or by an estimate that says so; whatever ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meterstream.producers import AsyncMeterClient, Bounds, MemoryTransport, MeterClient
from meterstream.producers import stream as streams
from meterstream.producers.stream import NO_END
from meterstream.schema import failpoints
from meterstream.schema.event import UsageEvent
from tests import metered_service
from tests.unit.test_client import Away, ids_of
from tests.unit.test_spool import Service

CALL: dict[str, Any] = {"tenant": "acme", "provider": "openai", "model": "gpt-4o", "operation": "chat"}
ESTIMATE = {"input_tokens": 900, "output_tokens": 0}
FINAL = {"input_tokens": 1000, "output_tokens": 50}


@pytest.fixture
def transport() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
def client(transport: MemoryTransport) -> Iterator[MeterClient]:
    with MeterClient("shop", transport=transport) as client:
        yield client


def only(transport: MemoryTransport, client: MeterClient) -> dict[str, Any]:
    """The data of the one event that was sent; it keeps the contract."""
    assert client.flush(60)
    (event,) = transport.events
    UsageEvent.model_validate(event)
    data: dict[str, Any] = event["data"]
    return data


def test_the_final_usage_takes_the_place_of_the_estimate(client: MeterClient, transport: MemoryTransport) -> None:
    with client.stream(**CALL, usage=ESTIMATE) as stream:
        client.flush(60)
        assert transport.events == [], "nothing provisional leaves while the stream lives"
        stream.update(usage={**ESTIMATE, "output_tokens": 7}, ttft_ms=120)
        assert stream.finish(usage=FINAL, latency_ms=900) == stream.id
    data = only(transport, client)
    assert data["usage"] == FINAL
    assert (data["ttft_ms"], data["latency_ms"], data["operation_id"]) == (120, 900, stream.id)
    assert "estimated" not in data and "status" not in data
    assert transport.events[0]["id"] == stream.id
    assert client.stats().recorded == client.stats().confirmed == 1


def test_a_vendors_last_word_takes_the_place_of_the_estimate(client: MeterClient, transport: MemoryTransport) -> None:
    with client.stream(**CALL, usage=ESTIMATE) as stream:
        stream.finish_response(
            {"model": "gpt-4o", "usage": {"prompt_tokens": 9, "completion_tokens": 1}, "text": "secret"}
        )
    data = only(transport, client)
    assert "usage" not in data, "quantities of the event would win over the vendor's"
    assert data["vendor_usage"] == {"model": "gpt-4o", "usage": {"prompt_tokens": 9, "completion_tokens": 1}}


NO_USAGE = [
    {"id": "1", "created": 1_700_000_000, "model": "gpt-4o-2024-08-06", "choices": [{"delta": {}}], "usage": None},
    {"type": "response.completed", "response": {"model": "gpt-4o-2024-08-06", "usage": None}},
    {"modelVersion": "gpt-4o-2024-08-06", "candidates": [{"content": {}}]},
]


@pytest.mark.parametrize("last", NO_USAGE, ids=["chunk", "event", "modelVersion"])
def test_a_last_word_without_usage_leaves_the_estimate_and_says_so(
    client: MeterClient, transport: MemoryTransport, last: dict[str, Any]
) -> None:
    """As OpenAI's chunks are where nobody asked for `include_usage`."""
    with client.stream(**CALL, usage=ESTIMATE) as stream:
        assert stream.finish_response(last, latency_ms=900) == stream.id
    data = only(transport, client)
    assert (data["usage"], data["estimated"], data["latency_ms"]) == (ESTIMATE, True, 900)
    assert data["model"] == "gpt-4o-2024-08-06", "the one that answered"
    assert "status" not in data, "the call went well"
    transport.clear()
    with client.stream(**CALL, usage=ESTIMATE) as stream:
        assert stream.finish_response(last, latency_ms="soon") == stream.id  # type: ignore[arg-type]
    assert only(transport, client)["status"] == "cancelled", "what is refused leaves the estimate, too"


def test_quantities_of_ones_own_beside_a_last_word_are_final(client: MeterClient, transport: MemoryTransport) -> None:
    with client.stream(**CALL, usage=ESTIMATE) as stream:
        stream.finish_response(NO_USAGE[0], usage=FINAL)
    data = only(transport, client)
    assert (data["usage"], data["model"]) == (FINAL, "gpt-4o-2024-08-06")
    assert "estimated" not in data


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, "cancelled", NO_END),
        (GeneratorExit(), "cancelled", NO_END),
        (asyncio.CancelledError(), "cancelled", NO_END),
        (ValueError("the prompt"), "error", "ValueError"),
    ],
    ids=str,
)
def test_a_stream_that_breaks_off_leaves_an_estimate_that_says_so(
    client: MeterClient, transport: MemoryTransport, error: BaseException | None, status: str, said: str
) -> None:
    def service() -> None:
        with client.stream(**CALL, usage=ESTIMATE) as stream:
            stream.update(usage={**ESTIMATE, "output_tokens": 7})
            if error is not None:
                raise error

    if error is None:
        service()
    else:
        with pytest.raises(type(error)):
            service()
    data = only(transport, client)
    assert (data["estimated"], data["status"], data["error"]) == (True, status, said)
    assert data["usage"] == {**ESTIMATE, "output_tokens": 7}


def test_a_final_usage_that_is_refused_leaves_the_estimate(client: MeterClient, transport: MemoryTransport) -> None:
    with client.stream(**CALL, usage=ESTIMATE) as stream:
        stream.finish(usage={"bananas": 1})
    assert only(transport, client)["estimated"] is True
    with client.stream(**CALL, usage=ESTIMATE) as stream:
        stream.finish_response("no answer")
    client.flush()
    assert [event["data"]["estimated"] for event in transport.events] == [True, True]


def test_a_second_end_does_nothing(client: MeterClient, transport: MemoryTransport) -> None:
    stream = client.stream(**CALL, usage=ESTIMATE)
    assert stream.finish(usage=FINAL) == stream.id
    assert (stream.finish(usage=ESTIMATE), stream.cancel()) == (None, None)
    stream.update(usage=ESTIMATE)
    assert only(transport, client)["usage"] == FINAL


def test_a_stream_that_takes_too_long_is_its_estimate(
    transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterstream.producers.sender.LOOK_EVERY_S", 0.01)
    with MeterClient("shop", transport=transport, stream_max_s=0.02) as client:
        stream = client.stream(**CALL, usage=ESTIMATE)
        while not transport.events:
            client.flush(0.01)
        assert stream.finish(usage=FINAL) is None
        assert client.stats().refused == 1
        assert only(transport, client)["estimated"] is True


def test_closing_ends_what_is_open(transport: MemoryTransport) -> None:
    client = MeterClient("shop", transport=transport)
    stream = client.stream(**CALL, usage=ESTIMATE)
    assert client.close()
    assert stream.finish(usage=FINAL) is None
    assert [event["data"]["estimated"] for event in transport.events] == [True]


async def test_in_a_services_own_loop(transport: MemoryTransport) -> None:
    async def answer(client: AsyncMeterClient) -> None:
        with client.stream(**CALL, usage=ESTIMATE):
            await asyncio.Event().wait()

    async with AsyncMeterClient("shop", transport=transport) as client:
        task = asyncio.create_task(answer(client))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert await client.flush(60)
    assert [event["data"]["status"] for event in transport.events] == ["cancelled"]


def test_an_open_stream_outlives_the_files_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many records come and go between a stream's begin and the service's end without its end."""
    monkeypatch.setattr(streams, "KEEP_EVERY_S", 0.0)
    transport = MemoryTransport()
    client = MeterClient("shop", transport=transport, spool=tmp_path, bounds=Bounds(segment_bytes=4096))
    stream = client.stream(**CALL, usage=ESTIMATE)
    for number in range(200):
        client.record(**CALL, usage=FINAL)
        if number % 20 == 0:
            client.flush(60)
            stream.update(usage={**ESTIMATE, "output_tokens": number})
    client.flush(60)
    assert len(list(tmp_path.glob("*/*.seg"))) < 10, "files of what is confirmed go, although a stream is open"
    assert stream.finish(usage=FINAL) == stream.id
    assert client.close()
    assert ids_of(transport).count(stream.id) == 1
    assert not any(event["data"].get("estimated") for event in transport.events)


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_a_stream_that_has_begun_has_room_for_its_end(tmp_path: Path, is_on_disk: bool) -> None:
    away = Away()
    bounds = Bounds(segment_bytes=4096, memory_bytes_max=8192, spool_bytes_max=8192)
    options: Any = {"spool": tmp_path} if is_on_disk else {}
    client = MeterClient("shop", transport=lambda: away, bounds=bounds, **options)
    ended, broken = (client.stream(**CALL, usage=ESTIMATE) for _ in range(2))
    while client.record(**CALL, usage=FINAL) is not None:
        pass
    assert ended.finish(usage=FINAL) == ended.id
    away.is_back.set()
    assert client.flush(60)
    assert client.record(**CALL, usage=FINAL) is not None, "a stream that is open holds nothing up"
    assert client.close()
    data = {event["id"]: event["data"] for event in away.memory.events}
    assert ("estimated" in data[ended.id], data[broken.id]["estimated"]) == (False, True)


SERVICE = """
import os, sys
from pathlib import Path
from meterstream.producers import Bounds, MeterClient
from tests.metered_service import FileBroker
spool, broker, recorded = map(Path, sys.argv[1:4])
ids = os.open(recorded, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
file_broker = FileBroker(broker)
with MeterClient("service", transport=lambda: file_broker, spool=spool, bounds=Bounds(segment_bytes=4096)) as client:
    for number in range(60):
        stream = client.stream(tenant="acme", provider="openai", operation="chat", usage={"requests": 1})
        os.write(ids, f"{stream.id} begun\\n".encode())
        if number % 3 == 2:
            client.flush(0.2)
        if number % 3:
            stream.finish(usage={"requests": 1000 + number})
            os.write(ids, f"{stream.id} ended\\n".encode())
"""


@pytest.mark.parametrize("step", ["appended:1", "appended:50", "sent:5", "confirmed:5", "carried:2"])
def test_a_service_that_is_killed_leaves_each_stream_with_one_end(tmp_path: Path, step: str) -> None:
    service = Service(tmp_path)
    run = subprocess.Popen(
        [sys.executable, "-c", SERVICE, service.spool, service.broker, service.recorded],
        cwd=Path(metered_service.__file__).parents[1],
        env={**os.environ, "PYTHONPATH": ".", failpoints.VARIABLE: step},
    )
    assert run.wait() == -signal.SIGKILL
    assert service.start(0).wait() == 0
    bodies: dict[str, set[str]] = {}
    for line in service.broker.read_text().splitlines():
        value = json.loads(line)
        for event in value if isinstance(value, list) else [value]:
            bodies.setdefault(event["id"], set()).add(json.dumps(event["data"]))
    said = [line.split() for line in service.recorded.read_text().splitlines()] if service.recorded.exists() else []
    ended = {event_id for event_id, what in said if what == "ended"}
    for event_id, _ in said:
        (body,) = map(json.loads, bodies[event_id])
        if event_id in ended:
            assert body["usage"]["requests"] >= 1000
        else:
            assert body["usage"]["requests"] >= 1000 or body["estimated"] is True
    assert len(bodies) <= len({event_id for event_id, _ in said}) + 1
