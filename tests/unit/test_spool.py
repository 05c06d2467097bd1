"""What was recorded is sent, whatever dies in between: segments, folders and their locks, kill -9 at every step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterstream.producers import Bounds
from meterstream.producers.buffer import Buffer
from meterstream.producers.segment import START, Kind, Segment
from meterstream.producers.spool import Spool
from meterstream.schema import failpoints
from tests import metered_service

FRAMES = [(Kind.EVENT, b"acme", b'{"n":%d}' % number * (number % 5)) for number in range(30)]
SMALL = Bounds(segment_bytes=400, spool_bytes_max=1200, memory_bytes_max=800)


def no_disk_error(error: OSError) -> None:
    raise AssertionError(error)


def written(path: Path) -> list[int]:
    """A file with all FRAMES, closed as a dead process leaves it; the positions after each."""
    segment = Segment.create(path, 4096)
    ends = []
    for frame in FRAMES:
        assert segment.append(*frame)
        ends.append(segment.end)
    segment.close()
    return ends


@given(place=st.integers(0, 2400), junk=st.binary(min_size=1, max_size=20), is_cut=st.booleans())
def test_whatever_is_torn_what_is_read_is_what_was_written_first(
    tmp_path_factory: pytest.TempPathFactory, place: int, junk: bytes, is_cut: bool
) -> None:
    path = tmp_path_factory.mktemp("torn") / "1.seg"
    ends = written(path)
    with path.open("r+b") as file:
        if is_cut:
            file.truncate(place)
        else:
            file.seek(place)
            file.write(junk)
    try:
        segment = Segment.load(path)
    except OSError:
        segment = None  # no segment of this version
    if segment is None:
        assert place < START
        return
    found = [tuple(frame) for frame, _ in segment.read(START, segment.end)]
    assert found == FRAMES[: len(found)]
    assert len(found) >= sum(end <= place for end in ends), "nothing before the torn place is lost"
    assert segment.confirmed in (START, *ends)
    segment.close()


def test_a_disk_without_room_refuses_a_segment_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"File too large|No space left"):
        Segment.create(tmp_path / "1.seg", 1 << 60)
    assert not list(tmp_path.iterdir())


def drain(buffer: Buffer, frames_max: int = 3) -> list[bytes]:
    """What a sender would send."""
    found = []
    while (window := buffer.read(frames_max, 10_000)) is not None:
        found += [frame.value for frame in window.frames if frame.kind is not Kind.OPEN]
        buffer.confirm(window)
    return found


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_it_comes_out_in_the_order_in_which_it_went_in(tmp_path: Path, is_on_disk: bool) -> None:
    root = tmp_path / "spool" if is_on_disk else None
    buffer = Buffer(root, Bounds(segment_bytes=400), no_disk_error)
    found = []
    for number in range(0, 500, 10):
        for one in range(number, number + 10):
            assert buffer.append(Kind.EVENT, b"acme", b"%d" % one)
        window = buffer.read(7, 10_000)
        assert window is not None
        found += [frame.value for frame in window.frames]
        buffer.confirm(window)
    found += drain(buffer)
    assert found == [b"%d" % number for number in range(500)]
    buffer.close()
    assert root is None or not list(root.iterdir()), "nothing waits: nothing stays on disk"


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_it_is_bounded_and_takes_more_when_there_is_room_again(tmp_path: Path, is_on_disk: bool) -> None:
    buffer = Buffer(tmp_path / "spool" if is_on_disk else None, SMALL, no_disk_error)
    sent = 0
    for _ in range(3):
        taken = 0
        while buffer.append(Kind.EVENT, b"acme", b"x" * 50):
            taken += 1
        assert 0 < taken < 30
        sent += len(drain(buffer))
        assert buffer.waiting == 0
    assert sent == buffer.confirmed
    buffer.close()


def test_a_failing_disk_is_replaced_by_memory_and_used_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "spool"
    root.write_text("a file where the folder should be")
    errors: list[OSError] = []
    buffer = Buffer(root, SMALL, errors.append)
    assert buffer.append(Kind.EVENT, b"acme", b"1")
    assert [len(errors), buffer.outlives_process] == [1, False]
    root.unlink()
    monkeypatch.setattr("meterstream.producers.buffer.DISK_RETRY_S", 0.0)
    buffer._disk_retry_at = 0.0
    assert drain(buffer) == [b"1"]
    assert buffer.append(Kind.EVENT, b"acme", b"2")
    assert [len(errors), buffer.outlives_process] == [1, True]
    assert drain(buffer) == [b"2"]
    buffer.close()


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_more_open_streams_than_fit_one_segment_are_not_carried_round_for_ever(
    tmp_path: Path, is_on_disk: bool
) -> None:
    root = tmp_path if is_on_disk else None
    buffer = Buffer(root, Bounds(segment_bytes=400, spool_bytes_max=40_000, memory_bytes_max=40_000), no_disk_error)
    begun = 0
    while buffer.begin(str(begun), b"acme", b"estimate" * 10):
        begun += 1
    assert 100 < begun < 200, "a part of the room"
    for number in range(300):
        assert buffer.append(Kind.EVENT, b"acme", b"%d" % number)
        assert drain(buffer) == [b"%d" % number]
    for number in range(begun):
        assert buffer.append(Kind.FINAL, b"acme", b"%d" % number, str(number))
    assert drain(buffer) == [b"%d" % number for number in range(begun)]
    assert buffer.events == buffer.events_confirmed == 300 + begun
    buffer.close()
    assert not list(tmp_path.iterdir())


def test_what_a_dead_process_left_is_sent_without_what_was_confirmed(tmp_path: Path) -> None:
    buffer = Buffer(tmp_path, Bounds(segment_bytes=400), no_disk_error)
    for number in range(100):
        buffer.append(Kind.EVENT, b"acme", b"%d" % number)
    window = buffer.read(5, 10_000)
    assert window is not None
    buffer.confirm(window)
    assert list(Spool.adopt(tmp_path)) == [], "its owner lives"
    buffer.close()  # as a process that ends: the files stay, the lock goes
    (spool,) = Spool.adopt(tmp_path)
    assert list(Spool.adopt(tmp_path)) == [], "somebody has it already"
    left = Buffer.left_behind(spool, SMALL)
    assert (left.waiting, left.events) == (95, 95)
    assert drain(left) == [b"%d" % number for number in range(5, 100)]
    left.close()
    assert not list(tmp_path.iterdir())


def left(root: Path) -> list[Buffer]:
    return [Buffer.left_behind(spool, SMALL) for spool in Spool.adopt(root)]


def test_of_a_damaged_file_what_is_whole_is_sent_and_the_file_stays(tmp_path: Path) -> None:
    buffer = Buffer(tmp_path, Bounds(segment_bytes=1000, memory_bytes_max=2000), no_disk_error)
    for number in range(100):
        buffer.append(Kind.EVENT, b"acme", b"%d" % number)
    buffer.close()
    (first, *_) = sorted(tmp_path.glob("*/*.seg"))
    with first.open("r+b") as file:
        file.seek(500)
        file.write(b"\xff" * 8)
    (found,) = left(tmp_path)
    assert 0 < found.torn_bytes < 600
    values = [int(value) for value in drain(found)]
    assert values == sorted(values) and values[0] == 0 and values[-1] == 99 and 60 < len(values) < 100
    found.close()
    assert [path.suffix for path in tmp_path.glob("*/*")] == [".torn"]
    assert left(tmp_path) == []


def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    buffer = Buffer(tmp_path, SMALL, no_disk_error)
    buffer.append(Kind.EVENT, b"acme", b"1")
    buffer.close()
    (file,) = tmp_path.glob("*/*.seg")
    file.write_bytes(b"msspool9" + file.read_bytes()[8:])
    with pytest.raises(OSError, match="version"):
        left(tmp_path)
    assert file.exists()


def bytes_in(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_what_dead_processes_have_left_counts_for_the_bound(tmp_path: Path) -> None:
    """As in a loop of crashes while the broker is away."""
    bounds = Bounds(segment_bytes=4096, spool_bytes_max=16_384, memory_bytes_max=8192)
    on_disk = 0
    for number in range(20):
        errors: list[OSError] = []
        buffer = Buffer(tmp_path, bounds, errors.append)
        assert buffer.append(Kind.EVENT, b"acme", b"%d" % number), "nothing is refused while memory has room"
        assert buffer.outlives_process == (not errors)
        assert all("spool_bytes_max" in str(error.strerror) for error in errors)
        on_disk += not errors
        assert bytes_in(tmp_path) <= bounds.spool_bytes_max
        buffer.close()
    assert on_disk == 4
    found = left(tmp_path)
    assert sorted(value for one in found for value in drain(one)) == [b"0", b"1", b"2", b"3"]
    for one in found:
        one.close()
    buffer = Buffer(tmp_path, bounds, no_disk_error)
    assert buffer.append(Kind.EVENT, b"acme", b"again")
    assert buffer.outlives_process
    buffer.close()


def test_a_few_records_take_little_disk(tmp_path: Path) -> None:
    buffer = Buffer(tmp_path, Bounds(), no_disk_error)
    assert buffer.append(Kind.EVENT, b"acme", b"1")
    assert bytes_in(tmp_path) <= 65_536
    large = b"x" * 1_000_000
    assert all(buffer.append(Kind.EVENT, b"acme", large) for _ in range(5))
    assert {path.stat().st_size for path in tmp_path.rglob("*.seg")} >= {65_536, 4 * 1024 * 1024}
    buffer.close()
    (found,) = left(tmp_path)
    assert bytes_in(tmp_path) < 5_010_000, "what nobody has written is given back"
    assert drain(found) == [b"1", *[large] * 5]
    found.close()
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- a process that is killed


class Service:
    """Runs `tests.metered_service` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.spool = folder / "spool"
        self.broker = folder / "broker"
        self.recorded = folder / "recorded"
        self.away = folder / "broker.away"
        self._first = 0

    def start(self, calls: int, failpoint: str = "") -> subprocess.Popen[bytes]:
        first, self._first = self._first, self._first + calls
        return subprocess.Popen(
            [sys.executable, metered_service.__file__, self.spool, self.broker, self.recorded, str(calls), str(first)],
            env={**os.environ, failpoints.VARIABLE: failpoint},
        )

    def ids(self) -> list[str]:
        return self.recorded.read_text().split() if self.recorded.exists() else []

    def sent(self) -> Iterator[tuple[str, int]]:
        """(id, quantity) of each event, as often as it came."""
        for line in self.broker.read_text().splitlines():
            value = json.loads(line)
            for event in value if isinstance(value, list) else [value]:
                yield event["id"], event["data"]["usage"]["requests"]

    def judge(self) -> None:
        """Everything recorded arrived; one id is one call; nothing is left on disk."""
        sent = list(self.sent())
        assert set(self.ids()) <= {event_id for event_id, _ in sent}
        assert len(set(sent)) == len({event_id for event_id, _ in sent}), "an id with two bodies"
        assert [path for path in self.spool.iterdir() if not path.name.startswith(".")] == []


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


STEPS = ["segment_allocated", "appended", "sent", "confirmed", "carried", "spool_locked"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("times", [1, 3])
def test_killed_at_a_step_everything_recorded_arrives(service: Service, step: str, times: int) -> None:
    first = service.start(120, f"{step}:{times}")
    code = first.wait()
    assert code == (-signal.SIGKILL if (step, times) != ("spool_locked", 3) else 0)
    assert service.start(5).wait() == 0
    service.judge()


@pytest.mark.parametrize("step", ["spool_adopted", "sent", "confirmed", "spool_unlocked"])
def test_the_process_that_sends_for_a_dead_one_is_killed_too(service: Service, step: str) -> None:
    service.away.touch()
    assert service.start(120, "appended:100").wait() == -signal.SIGKILL
    service.away.unlink()
    assert service.start(0, step).wait() == -signal.SIGKILL
    assert service.start(1).wait() == 0
    service.judge()
    assert len(service.ids()) == 100


def test_two_processes_at_once_send_what_is_left_once(service: Service) -> None:
    service.away.touch()
    for _ in range(3):
        assert service.start(120, "appended:100").wait() == -signal.SIGKILL
    service.away.unlink()
    both = [service.start(40), service.start(40)]
    assert [one.wait() for one in both] == [0, 0]
    service.judge()
    assert set(Counter(service.sent()).values()) == {1}, "without a crash while it is sent, nothing is sent twice"
