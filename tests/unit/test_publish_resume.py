"""Publishing can stop anywhere: nothing is left out, and nothing counts as sent before it is confirmed."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meterstream.producers import publish as publishing
from meterstream.producers.publish import Published, PublishPolicy, UsageFile, Watch, publish_file
from meterstream.producers.publish_progress import Progress, ProgressFile
from meterstream.schema.cloudevents import Headers
from meterstream.schema.errors import MeterstreamError, UsageError
from tests.unit.test_publish_lines import GOOD

RAW = "usage.raw"


class Broker:
    """Confirms on flush, as far as `fail_after` allows."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.fail_after = fail_after
        self.waiting: list[bytes] = []
        self.confirmed: list[bytes] = []

    async def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        assert topic == RAW
        if self.fail_after is not None and len(self.confirmed) + len(self.waiting) >= self.fail_after:
            raise MeterstreamError("gone")
        self.waiting.append(value)

    async def flush(self) -> None:
        self.confirmed += self.waiting
        self.waiting.clear()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Broker]:
        yield self

    def ids(self) -> list[str]:
        return [json.loads(value)["id"] for value in self.confirmed]


def write_events(path: Path, count: int) -> list[str]:
    ids = [f"call-{number}" for number in range(count)]
    path.write_text("".join(json.dumps(GOOD | {"id": event_id}) + "\n" for event_id in ids))
    return ids


async def run(path: Path, broker: Broker, **options: Any) -> tuple[Published, list[tuple[int, str]]]:
    refused: list[tuple[int, str]] = []
    again = options.pop("again", False)
    published = await publish_file(
        str(path),
        PublishPolicy(topic=RAW, **options),
        connect=broker.connect,
        progress_folder=path.parent / "home",
        destination="local",
        again=again,
        watch=lambda file: Watch(refused=lambda number, problem: refused.append((number, problem))),
    )
    return published, refused


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every few lines."""
    monkeypatch.setattr(publishing, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr("meterstream.producers.chunks.CHUNK_BYTES", 1000)


async def test_a_second_run_sends_nothing_and_says_so(tmp_path: Path) -> None:
    ids = write_events(tmp_path / "events.jsonl", 20)
    broker = Broker()
    first, _ = await run(tmp_path / "events.jsonl", broker)
    second, _ = await run(tmp_path / "events.jsonl", broker)
    assert broker.ids() == ids
    assert (first.was_complete, first.progress.sent) == (False, 20)
    assert (second.was_complete, second.progress) == (True, first.progress)


async def test_again_sends_everything_again(tmp_path: Path) -> None:
    ids = write_events(tmp_path / "events.jsonl", 3)
    broker = Broker()
    await run(tmp_path / "events.jsonl", broker)
    await run(tmp_path / "events.jsonl", broker, again=True)
    assert broker.ids() == ids * 2


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
@pytest.mark.parametrize("fail_after", [0, 1, 57, 199])
async def test_a_run_that_broke_off_is_continued_without_a_gap(tmp_path: Path, name: str, fail_after: int) -> None:
    path = tmp_path / name
    ids = write_events(tmp_path / "plain", 200)
    content = (tmp_path / "plain").read_bytes()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    broken = Broker(fail_after)
    with pytest.raises(MeterstreamError, match="gone"):
        await run(path, broken)
    resumed = Broker()
    published, _ = await run(path, resumed)
    assert published.progress.is_complete
    # What the first run had confirmed at a checkpoint is not sent again; what it had not is.
    assert broken.ids() + resumed.ids() == ids
    assert fail_after < 57 or broken.ids()


async def test_an_edited_file_of_the_same_size_is_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write_events(path, 5)
    await run(path, Broker())
    before = path.stat()
    path.write_text(path.read_text().replace("call-4", "call-9"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    broker = Broker()
    await run(path, broker)
    assert broker.ids()[-1] == "call-9"


async def test_bad_lines_are_named_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [GOOD | {"id": "a"}, {"no": "event"}, GOOD | {"id": "b"}, GOOD | {"id": "c", "time": "soon"}]
    path.write_text("\ufeff" + "\n\n".join(json.dumps(item) for item in lines))
    broker = Broker()
    published, refused = await run(path, broker)
    assert broker.ids() == ["a", "b"]
    assert [number for number, _ in refused] == [3, 7]
    assert (published.progress.sent, published.progress.refused, published.progress.lines) == (2, 2, 7)


async def test_bad_lines_can_be_sent_to_see_them_rejected(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"no": "event"}\n{broken\n' + json.dumps(GOOD) + "\n")
    broker = Broker()
    published, refused = await run(path, broker, send_invalid=True)
    assert broker.confirmed[:2] == [b'{"no": "event"}', b"{broken"]
    assert (published.progress.sent, len(refused)) == (3, 2)


async def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(publishing, "_STDIN_FILENO", reader)
    broker = Broker()
    running = asyncio.create_task(run(Path("-"), broker))
    first = json.dumps(GOOD).encode() + b"\n"
    os.write(writer, first)
    async with asyncio.timeout(10):
        while not broker.waiting:  # the line is handed over while the pipe is still open
            await asyncio.sleep(0.005)
    os.close(writer)
    published, _ = await running
    os.close(reader)
    assert published.progress.sent == 1
    assert not (Path("home")).exists()


async def test_a_damaged_gzip_file_is_an_error_after_its_good_part(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl.gz"
    write_events(tmp_path / "plain", 50)
    path.write_bytes(gzip.compress((tmp_path / "plain").read_bytes())[:-30])
    with pytest.raises(UsageError, match="cannot be read to its end"):
        await run(path, Broker())


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be opened|is a folder"):
        UsageFile(str(tmp_path / name))


def test_an_unreadable_progress_file_means_from_the_start(tmp_path: Path) -> None:
    source = tmp_path / "events.jsonl"
    source.write_text("x")
    store = ProgressFile(tmp_path / "home", source, "local")
    store.write(Progress(str(source), lines=3))
    assert store.read().lines == 3
    next((tmp_path / "home").iterdir()).write_bytes(b'{"path":')
    assert store.read() == Progress(str(source))
