"""Publishing can stop anywhere: nothing is left out, and nothing counts as sent before it is confirmed."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from meterstream.producers import publish as publishing
from meterstream.producers import publish_progress, usage_file
from meterstream.producers.publish import Counts, Published, PublishPolicy, Watch, publish_file
from meterstream.producers.publish_progress import Progress, ProgressFile
from meterstream.producers.usage_file import UsageFile
from meterstream.schema.cloudevents import Headers
from meterstream.schema.errors import DeliveryFailed, UsageError
from meterstream.schema.topics import EVENT_BYTES_MAX
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
            raise DeliveryFailed("gone", len(self.confirmed))
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
    with pytest.raises(DeliveryFailed, match="gone"):
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
    assert published.counts == Counts(lines=7, sent=2, refused=2)


async def test_bad_lines_can_be_sent_to_see_them_rejected(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"no": "event"}\n{broken\n' + json.dumps(GOOD) + "\n")
    broker = Broker()
    published, refused = await run(path, broker, send_invalid=True)
    assert broker.confirmed[:2] == [b'{"no": "event"}', b"{broken"]
    assert published.counts == Counts(lines=3, sent=3, invalid=2)
    assert len(refused) == 2


async def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(usage_file, "_STDIN_FILENO", reader)
    broker = Broker()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run(Path("-"), broker))
        os.write(writer, json.dumps(GOOD).encode() + b"\n")
        async with asyncio.timeout(100):
            while not broker.waiting:  # the line is handed over while the pipe is still open
                await asyncio.sleep(0.005)
        os.close(writer)
    published, _ = running.result()
    os.close(reader)
    assert published.counts.sent == 1
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
    with closing(UsageFile(str(source))) as file, ProgressFile(tmp_path / "home", file, "local") as store:
        store.write(Progress(str(source), lines=3))
        assert store.read().lines == 3
        next((tmp_path / "home").glob("*.json")).write_bytes(b'{"path":')
        assert store.read() == Progress(str(source))


def without_id(number: int) -> str:
    return json.dumps({name: value for name, value in GOOD.items() if name != "id"} | {"tenant": f"t{number}"})


def good(event_id: str) -> str:
    return json.dumps(GOOD | {"id": event_id})


def write_mixed(path: Path) -> None:
    """Two good lines, one without an id, one that is no JSON, one that is too long."""
    lines = [good("a"), without_id(1), "{broken", "x" * (EVENT_BYTES_MAX + 1), good("b")]
    path.write_text("\n".join(lines) + "\n")


async def test_refused_lines_are_named_in_every_run_and_nothing_is_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write_mixed(path)
    first = Broker()
    published, refused = await run(path, first)
    assert first.ids() == ["a", "b"]
    assert published.counts == Counts(lines=5, sent=2, refused=3)
    second = Broker()
    published, refused_again = await run(path, second)
    assert second.confirmed == []
    assert refused_again == refused
    assert (published.was_complete, published.counts) == (True, Counts(lines=5, sent=0, refused=3))


async def test_a_run_with_other_options_sends_what_they_allow_and_only_that(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write_mixed(path)
    await run(path, Broker())
    derived = Broker()
    published, _ = await run(path, derived, derive_ids=True)
    assert [json.loads(value)["tenant"] for value in derived.confirmed] == ["t1"]
    assert published.counts == Counts(lines=5, sent=1, refused=2)
    invalid = Broker()
    published, _ = await run(path, invalid, send_invalid=True)
    assert invalid.confirmed == [b"{broken"]
    # What is too long stays unsent whatever is asked.
    assert published.counts == Counts(lines=5, sent=1, refused=1, invalid=1)
    for options in ({}, {"derive_ids": True}, {"send_invalid": True}):
        last = Broker()
        published, named = await run(path, last, **options)
        assert last.confirmed == []
        assert [number for number, _ in named] == [3, 4]
        assert published.counts.refused == 1
        assert published.progress.sent == 4


async def test_a_line_that_was_sent_to_be_rejected_is_sent_once_it_is_good(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(without_id(1))
    await run(path, Broker(), send_invalid=True)
    broker = Broker()
    await run(path, broker, derive_ids=True)
    assert [json.loads(value)["tenant"] for value in broker.confirmed] == ["t1"]
    after = Broker()
    await run(path, after, send_invalid=True)
    assert after.confirmed == []


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("fail_after", [0, 1, 30, 49])
async def test_going_over_refused_lines_can_break_off_too(tmp_path: Path, fail_after: int) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{good(f'call-{number}')}\n{without_id(number)}\n" for number in range(50)))
    await run(path, Broker())
    broken = Broker(fail_after)
    with pytest.raises(DeliveryFailed):
        await run(path, broken, derive_ids=True)
    resumed = Broker()
    published, _ = await run(path, resumed, derive_ids=True)
    tenants = [json.loads(value)["tenant"] for value in broken.confirmed + resumed.confirmed]
    assert tenants == [f"t{number}" for number in range(50)]
    assert (published.progress.sent, published.counts.refused) == (100, 0)


async def test_more_refused_lines_than_can_be_remembered_are_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_progress, "OPEN_LINES_MAX", 2)
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(["{", "{", good("a"), without_id(3), good("b"), "{"]))
    first = Broker()
    published, _ = await run(path, first)
    assert first.ids() == ["a", "b"]
    assert published.counts == Counts(lines=6, sent=2, refused=4)
    second = Broker()
    published, _ = await run(path, second, derive_ids=True)
    # From the line on that could not be remembered everything is sent again, under the same ids.
    assert [json.loads(value).get("tenant") for value in second.confirmed] == ["t3", GOOD["tenant"]]
    assert published.counts.refused == 3


async def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write_events(path, 3)
    with (
        closing(UsageFile(str(path))) as file,
        ProgressFile(tmp_path / "home", file, f"local\n{RAW}"),
        pytest.raises(UsageError, match="by another process"),
    ):
        await run(path, Broker())
    published, _ = await run(path, Broker())
    assert published.counts.sent == 3


async def test_no_room_for_the_progress_is_said_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    write_events(path, 3)

    def no_room(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    broker = Broker()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", no_room)
        with pytest.raises(UsageError, match="No space left on device"):
            await run(path, broker)
    assert broker.waiting == broker.confirmed == []
    await run(path, broker)
    assert len(broker.confirmed) == 3


async def test_a_progress_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write_events(path, 3)
    (tmp_path / "home").write_text("a file")
    with pytest.raises(UsageError, match="cannot be kept in"):
        await run(path, Broker())


@pytest.mark.parametrize("change", ["grows", "is cut"])
async def test_a_file_that_changes_between_two_runs_is_read_from_its_start(tmp_path: Path, change: str) -> None:
    path = tmp_path / "events.jsonl"
    ids = write_events(path, 5)
    await run(path, Broker())
    if change == "grows":
        ids.append("later")
        path.write_text(path.read_text() + good("later"))
    else:
        ids = ids[:2]
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    broker = Broker()
    await run(path, broker)
    assert broker.ids() == ids


async def test_events_that_are_too_old_for_the_topic_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    times = ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+02:00", "2026-01-01T00:00:01Z")
    path.write_text("\n".join(json.dumps(GOOD | {"id": time, "time": time}) for time in times))
    published, _ = await run(path, Broker(), oldest=datetime(2026, 1, 1, tzinfo=UTC))
    assert published.counts == Counts(lines=3, sent=3, too_old=1)


async def test_an_empty_file_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.touch()
    published, _ = await run(path, Broker())
    assert (published.counts, published.progress.is_complete) == (Counts(), True)


@pytest.mark.parametrize("packed", [False, True])
async def test_a_pipe_is_read_like_a_file_gzip_or_not(tmp_path: Path, packed: bool) -> None:
    ids = write_events(tmp_path / "plain", 2000)
    content = (tmp_path / "plain").read_bytes()
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # Opening a pipe waits for its other side.
    writer = Thread(target=path.write_bytes, args=(gzip.compress(content) if packed else content,))
    writer.start()
    broker = Broker()
    await run(path, broker)
    writer.join()
    assert broker.ids() == ids


async def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.jsonl")
    write_events(path, 2)
    published, _ = await run(path, Broker())
    assert published.progress.path.endswith("/\\xff.jsonl")
