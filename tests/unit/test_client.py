"""The clients as a service sees them, without a broker: never in the way, whatever is wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from meterstream.producers import AsyncMeterClient, Bounds, MemoryTransport, MeterClient, bench
from meterstream.schema.cloudevents import Headers
from meterstream.schema.errors import BufferFull, EventRejected, MeterstreamError, Unreachable, UsageError

CALL: dict[str, Any] = {"tenant": "acme", "provider": "openai", "operation": "chat", "usage": {"input_tokens": 3}}
TIGHT = Bounds(segment_bytes=4096, memory_bytes_max=8192)


class Away:
    """A broker that is not there, until `is_back` is set."""

    def __init__(self) -> None:
        self.is_back = threading.Event()
        self.memory = MemoryTransport()
        self.tries = 0

    async def __aenter__(self) -> Self:
        self.tries += 1
        if not self.is_back.is_set():
            raise Unreachable("nobody answers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to let go."""

    async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        await self.memory.send(topic, key, value, headers)

    async def flush(self) -> None:
        """Confirmed."""


def ids_of(transport: MemoryTransport) -> list[str]:
    return [event["id"] for event in transport.events]


def test_what_is_recorded_by_threads_arrives_in_each_ones_order() -> None:
    transport = MemoryTransport()
    recorded: dict[str, list[str | None]] = {}
    with MeterClient("shop", transport=transport) as client:

        def work(tenant: str) -> None:
            recorded[tenant] = [client.record(**{**CALL, "tenant": tenant}) for _ in range(500)]

        threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for tenant, ids in recorded.items():
        assert [event["id"] for event in transport.events if event["tenant"] == tenant] == ids
    assert {record.key.decode() for record in transport.records} == set(recorded)
    assert len(transport.records) < 500, "events of a tenant share records"


async def test_the_async_client_shares_the_services_loop() -> None:
    transport = MemoryTransport()
    async with AsyncMeterClient("shop", transport=transport) as client:
        ids = [await client.record(**CALL) for _ in range(100)]
        assert await client.flush()
        assert ids_of(transport) == ids
        response = {"model": "gpt-4o", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
        last = await client.record_response("openai", response, tenant="acme")
    assert transport.events[-1]["id"] == last
    assert (client.stats().recorded, client.stats().confirmed, client.stats().waiting) == (101, 101, 0)


def test_an_id_of_ones_own_is_kept() -> None:
    transport = MemoryTransport()
    with MeterClient("shop", transport=transport) as client:
        assert client.record(**CALL, id="order-7") == "order-7"
    assert ids_of(transport) == ["order-7"]


@pytest.mark.parametrize("wrong", [{"usage": {"bananas": 1}}, {"prompt": "Tell me"}, {"tenant": None}])
def test_wrong_arguments_are_counted_and_logged_or_raised_or_told(
    wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[MeterstreamError] = []
    with MeterClient("shop", transport=MemoryTransport()) as client:
        for _ in range(5):
            assert client.record(**{**CALL, **wrong}) is None
        assert (client.stats().refused, client.stats().recorded) == (5, 0)
    assert len(caplog.records) == 1, "one line a minute of each kind"
    with (
        MeterClient("shop", transport=MemoryTransport(), on_error="raise") as client,
        pytest.raises(EventRejected),
    ):
        client.record(**{**CALL, **wrong})
    with MeterClient("shop", transport=MemoryTransport(), on_error=told.append) as client:
        assert client.record(**{**CALL, **wrong}) is None
    assert [type(error) for error in told] == [EventRejected]


@pytest.mark.parametrize(
    "answer",
    [
        {"model": "gpt-4o-2024-08-06", "usage": {"prompt_tokens": 9, "completion_tokens": 9}},
        {"response": {"model": "gpt-4o-2024-08-06"}},
        {"modelVersion": "gpt-4o-2024-08-06", "usageMetadata": {"promptTokenCount": 9}},
        {"attributes": {"gen_ai.response.model": "gpt-4o-2024-08-06", "gen_ai.usage.input_tokens": 9}},
    ],
    ids=lambda answer: next(iter(answer)),
)
def test_quantities_of_ones_own_have_the_model_that_answered(answer: dict[str, Any]) -> None:
    """The rater reads no answer beside `usage`."""
    transport = MemoryTransport()
    with MeterClient("shop", transport=transport) as client:
        client.record_response("openai", answer, tenant="acme", usage={"input_tokens": 1})
        client.record_response("openai", answer, tenant="acme", usage={"input_tokens": 1}, model="mine")
    assert [event["data"]["model"] for event in transport.events] == ["gpt-4o-2024-08-06", "mine"]


def misplaced(client: Any) -> list[Any]:
    """Calls of either client, none of which Python can bind to the parameters."""
    return [
        lambda: client.record(tenant="acme"),
        lambda: client.record("acme", "openai"),
        lambda: client.record_response(response={}, tenant="acme"),
        lambda: client.record_response("openai", {}),
    ]


async def test_missing_and_misplaced_arguments_are_counted_as_wrong_ones_are(caplog: pytest.LogCaptureFixture) -> None:
    with MeterClient("shop", transport=MemoryTransport()) as client:
        assert [call() for call in misplaced(client)] == [None] * 4
        stream: Any = client.stream(tenant="acme")  # type: ignore[call-arg]
        assert (stream.update(usage={"input_tokens": 1}), stream.finish(), stream.cancel()) == (None, None, None)
        assert client.stats().refused == 5
        with client.stream(tenant="acme", provider="openai", operation="chat") as stream:
            assert (stream.update(1), stream.finish_response(), stream.finish("ok")) == (None, None, None)
        assert client.stats().refused == 8
        assert client.flush(60) and client.stats().confirmed == 1, "the estimate of the second"
    assert "missing 1 required keyword-only argument: 'provider'" in caplog.text
    async with AsyncMeterClient("shop", transport=MemoryTransport()) as client:
        assert [await call() for call in misplaced(client)] == [None] * 4
        assert client.stats().refused == 4
    strict: Any = MeterClient("shop", transport=MemoryTransport(), on_error="raise")
    with pytest.raises(EventRejected, match="provider"):
        strict.record(tenant="acme")
    with pytest.raises(EventRejected, match="provider"):
        strict.stream(tenant="acme")
    strict = AsyncMeterClient("shop", transport=MemoryTransport(), on_error="raise")
    with pytest.raises(EventRejected, match="provider"):
        await strict.record(tenant="acme")


def test_each_kind_of_refusal_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    wrong: list[dict[str, Any]] = [
        {"tenant": ""},
        {"usage": {"bananas": 1}},
        {"usage": {"input_tokens": -1}},
        {"model": 7},
        {"operation": 7},
        {"prompt": "Tell me"},
    ]
    with MeterClient("shop", transport=MemoryTransport()) as client:
        for number in range(500):
            for fields in wrong:
                assert client.record(**{**CALL, **fields}) is None
            assert client.record(**{**CALL, "usage": {f"unit {number}": 1}}) is None, "of the kind of the second"
            assert client.record(**{**CALL, "usage": {"output_tokens": -number - 1}}) is None
        assert len(caplog.records) == len(wrong) + 1
        for number in range(500):
            client.record(**CALL, **{f"field_{chr(0x4E00 + number)}": 1})  # type: ignore[arg-type]
    assert client.stats().refused == 500 * 9
    assert len(caplog.records) < 200, "bounded, whatever a service makes up"


@pytest.mark.parametrize("away_by", [timedelta(days=-36), timedelta(hours=1), timedelta(days=365 * 7000)], ids=str)
def test_a_time_that_the_rater_does_not_take_is_refused(away_by: timedelta) -> None:
    now = datetime.now(UTC)
    with MeterClient("shop", transport=MemoryTransport(), on_error="raise") as client:
        with pytest.raises(EventRejected, match=r"too_old: .*usage.backfill|in_future: .*clock"):
            client.record(**CALL, time=now + away_by)
        assert client.record(**CALL, time=now - timedelta(days=34))
        assert client.record(**CALL, time=now + timedelta(minutes=4))
        with pytest.raises(EventRejected):
            client.record(**CALL, time=datetime(2026, 1, 1))  # noqa: DTZ001


class Hostile:
    """An argument, or a vendor's answer, that does what no argument should."""

    def __bool__(self) -> bool:
        raise RuntimeError("no")

    def model_dump(self, **options: Any) -> Any:
        raise RuntimeError("no")


def test_nothing_that_is_given_raises_into_the_service() -> None:
    with MeterClient("shop", transport=MemoryTransport()) as client:
        assert client.record(**{**CALL, "usage": Hostile()}) is None
        assert client.record_response("openai", Hostile(), tenant="acme") is None
        assert client.record_response("openai", "text", tenant="acme") is None
        assert client.stats().refused == 3


def fill(client: MeterClient) -> int:
    """Records until there is no room; returns how many were taken."""
    taken = 0
    while client.record(**CALL) is not None:
        taken += 1
    return taken


def test_without_room_the_newest_are_dropped_and_counted() -> None:
    away = Away()
    told: list[MeterstreamError] = []
    client = MeterClient("shop", transport=lambda: away, bounds=TIGHT, on_error=told.append)
    taken = fill(client)
    assert 0 < taken < 100
    assert client.record(**CALL) is None
    assert client.stats().dropped == 2
    assert BufferFull in {type(error) for error in told}
    away.is_back.set()
    assert client.flush(60)
    assert len(ids_of(away.memory)) == taken
    assert client.record(**CALL) is not None
    assert client.close()
    assert client.stats().recorded == taken + 1


def test_blocking_waits_for_room_and_drops_when_there_is_none_for_long() -> None:
    away = Away()
    client = MeterClient("shop", transport=lambda: away, bounds=TIGHT, when_full="block", block_s=0.05)
    taken = fill(client)
    assert client.stats().dropped == 1
    client.close(0.1)
    away.is_back.set()
    client = MeterClient("shop", transport=lambda: away, bounds=TIGHT, when_full="block", block_s=60)
    ids = [client.record(**CALL) for _ in range(10 * taken)]
    assert client.close()
    assert ids_of(away.memory) == ids


def test_a_broker_that_comes_later_gets_everything(tmp_path: Path) -> None:
    away = Away()
    with MeterClient("shop", transport=lambda: away, spool=tmp_path) as client:
        ids = [client.record(**CALL) for _ in range(100)]
        assert client.flush(0.01) is False
        away.is_back.set()
        assert client.flush(60)
    assert ids_of(away.memory) == ids
    assert away.tries > 1
    assert not list(tmp_path.iterdir())


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may be made that is longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = Away()
    client = MeterClient("shop", transport=lambda: away, spool=tmp_path, bounds=Bounds(segment_bytes=4096))
    ids = [client.record(**CALL) for _ in range(30)]
    with full_disk(1000):
        ids += [client.record(**CALL) for _ in range(30)]
        assert "the spool takes no more" in caplog.text
        away.is_back.set()
        assert client.flush(60)
        ids += [client.record(**CALL) for _ in range(30)]
    assert client.close()
    assert ids_of(away.memory) == ids
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nobody but root may mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_loses_nothing(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = Away()
    client = MeterClient("shop", transport=lambda: away, spool=small_disk / "spool", bounds=Bounds(segment_bytes=4096))
    ids = [client.record(**CALL) for _ in range(300)]
    assert "No space left on device" in caplog.text
    away.is_back.set()
    assert client.flush(60)
    assert client.close()
    assert None not in ids and ids_of(away.memory) == ids
    assert not list((small_disk / "spool").iterdir())


def test_what_waits_at_the_end_is_sent_by_the_next_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = Away()
    client = MeterClient("shop", transport=lambda: away, spool=tmp_path)
    ids = [client.record(**CALL) for _ in range(100)]
    assert client.close(0.01) is False
    assert "the next process sends them" in caplog.text
    transport = MemoryTransport()
    with MeterClient("shop", transport=transport, spool=tmp_path) as client:
        last = client.record(**CALL)
        client.flush(60)
        assert client.stats().recovered == 100
    assert ids_of(transport) == [*ids, last], "the older first"


def test_what_is_lost_is_said(caplog: pytest.LogCaptureFixture) -> None:
    client = MeterClient("shop", transport=Away)
    client.record(**CALL)
    assert client.close(0.01) is False
    assert "1 records" in caplog.text and "lost" in caplog.text
    assert client.close() is False
    assert client.record(**CALL) is None
    assert client.stats().dropped == 1


def test_a_client_that_was_never_used_is_closed_at_once() -> None:
    assert MeterClient("shop", transport=Away).close()


def test_without_a_broker_one_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METERSTREAM_KAFKA_BOOTSTRAP", raising=False)
    with pytest.raises(UsageError, match="bootstrap_servers"):
        MeterClient("shop")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("is_on_disk", [True, False])
def test_a_forked_child_sends_its_own_and_nothing_of_its_parents(tmp_path: Path, is_on_disk: bool) -> None:
    away = Away()
    root = tmp_path / "spool" if is_on_disk else None
    options: Any = {"spool": root} if is_on_disk else {}
    client = MeterClient("shop", transport=lambda: away, **options)
    parents = [client.record(**CALL) for _ in range(10)]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            away.is_back.set()
            ids = [client.record(**CALL) for _ in range(5)]
            if client.close(60) and ids_of(away.memory) == ids and client.stats().recorded == 5:
                os.write(writing, "\n".join(map(str, ids)).encode())
                code = 0
        finally:
            os._exit(code)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with os.fdopen(reading) as pipe:
        childs = pipe.read().split()
    away.is_back.set()
    assert client.close(60)
    assert ids_of(away.memory) == parents
    assert len({*parents, *childs}) == 15
    assert root is None or not list(root.iterdir())


SCRIPT = """
import sys
from meterstream.producers import MeterClient, MemoryTransport
class Printing(MemoryTransport):
    async def send(self, topic, key, value, headers):
        import socket, asyncio
        await asyncio.get_running_loop().getaddrinfo("localhost", 9092)
        print(value.decode(), flush=True)
client = MeterClient("script", transport=Printing())
client.record(tenant="acme", provider="openai", operation="chat", id="last-words")
"""


def test_what_waits_when_the_interpreter_ends_is_sent() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert "last-words" in done.stdout
    assert done.stderr == ""


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, meterstream.producers; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "msgspec" in loaded
    heavy = {"pydantic", "pydantic_core", "yaml", "aiokafka", "asyncpg", "faust", "click", "rich", "xxhash", "redis"}
    assert heavy.isdisjoint(loaded)


def test_without_a_kafka_library_one_is_told_what_to_install() -> None:
    code = """
import sys
sys.modules["aiokafka"] = None
from meterstream.producers import MemoryTransport, MeterClient
MeterClient("shop", transport=MemoryTransport()).close()
MeterClient("shop", bootstrap_servers="127.0.0.1:9092")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "meterstream[kafka]"' in done.stderr.splitlines()[-1]


async def test_a_bug_in_a_transport_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryTransport):
        left = 2

        async def flush(self) -> None:
            if self.left:
                self.left -= 1
                raise RuntimeError("a bug")

    transport = Broken()
    with caplog.at_level(logging.WARNING):
        async with AsyncMeterClient("shop", transport=transport) as client:
            event_id = await client.record(**CALL)
            assert await client.flush(60)
    assert "a bug" in caplog.text
    assert ids_of(transport) == [event_id] * 3, "sent again under its id: it counts once"


async def test_a_library_that_logs_a_lot_is_held_back_for_the_client_alone(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("aiokafka.for_this_test")

    class Noisy(MemoryTransport):
        async def flush(self) -> None:
            async def connection() -> None:
                library.error("cannot reach node %d", 1)

            await asyncio.gather(*(connection() for _ in range(5)))

    async with AsyncMeterClient("shop", transport=Noisy()) as client:
        for _ in range(3):
            await client.record(**CALL)
            await client.flush(60)
    assert caplog.messages == ["cannot reach node 1"]
    for _ in range(3):
        library.error("cannot reach node %d", 1)
    assert len(caplog.messages) == 4, "what the service logs itself"


def test_errors_of_on_error_stay_there(caplog: pytest.LogCaptureFixture) -> None:
    def fails(error: MeterstreamError) -> None:
        raise RuntimeError("in the callback")

    with MeterClient("shop", transport=MemoryTransport(), on_error=fails) as client:
        for _ in range(5):
            assert client.record(**{**CALL, "tenant": ""}) is None
    assert caplog.text.count("in the callback") == 1


async def test_cancelling_a_caller_leaves_the_client_well() -> None:
    away = Away()
    client = AsyncMeterClient("shop", transport=lambda: away, bounds=TIGHT, when_full="block", block_s=60)
    taken = 0
    while not (task := asyncio.create_task(client.record(**CALL))).done():
        await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            break
        taken += 1
    await asyncio.wait([task])
    assert client.stats().dropped == 1
    away.is_back.set()
    assert await client.close(60)
    assert len(ids_of(away.memory)) == taken


def test_what_a_record_costs_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "RECORDS", 100)
    bench.main()
    assert capsys.readouterr().out.count("times encoding") == 3
    logging.getLogger("meterstream.producers").setLevel(logging.NOTSET)
