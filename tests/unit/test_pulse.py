"""A process that stood still, and one that has much to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import psutil
import pytest

from meterstream.processors.aggregation.pulse import Pulse, Standstill

PAUSE_S = 0.3
LIMIT_S = 1.0
STOPS_ITSELF = """
import os, signal
from meterstream.processors.aggregation.pulse import Pulse
pulse = Pulse()
os.kill(os.getpid(), signal.SIGSTOP)
print(pulse.stood_still_s())
"""


def test_work_is_no_pause() -> None:
    passed, worked = [100.0], [7.0]
    pulse = Pulse(lambda: passed[0], lambda: worked[0])
    passed[0], worked[0] = 130.0, 36.0
    assert pulse.stood_still_s() == 1.0
    passed[0] = 150.0
    assert pulse.stood_still_s() == 21.0
    pulse.beat()
    assert pulse.stood_still_s() == 0.0


def test_a_stopped_process_stood_still() -> None:
    with subprocess.Popen([sys.executable, "-c", STOPS_ITSELF], stdout=subprocess.PIPE, text=True) as stopped:
        watched = psutil.Process(stopped.pid)
        while watched.status() != psutil.STATUS_STOPPED:
            assert stopped.poll() is None
        time.sleep(PAUSE_S)  # how long it stands still
        watched.resume()
        said, _ = stopped.communicate()
    assert float(said) >= PAUSE_S


class Loop:
    """What beats, what waits and what makes up for a standstill, on a clock of ours."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pulse = Pulse(lambda: self.now_s, lambda: 0.0)
        self.standstill = Standstill(self.pulse, LIMIT_S)
        self.standstill.watch()

    def beat(self) -> None:
        self.standstill.notice()
        self.pulse.beat()

    def stand_still(self, seconds: float = LIMIT_S + 0.1) -> None:
        self.now_s += seconds

    async def is_over(self) -> bool:
        waiting = asyncio.create_task(self.standstill.over())
        await asyncio.sleep(0)
        is_over = waiting.done()
        waiting.cancel()
        return is_over


@pytest.mark.parametrize("beats_first", [False, True])
async def test_who_wakes_goes_on_only_when_what_was_missed_is_made_up_for(beats_first: bool) -> None:
    loop = Loop()
    loop.stand_still(LIMIT_S)
    assert await loop.is_over(), "too short to be one"
    loop.beat()
    loop.stand_still()
    if beats_first:
        loop.beat()
    waiting = asyncio.create_task(loop.standstill.over())
    await asyncio.sleep(0)
    assert not waiting.done()
    loop.beat()
    with loop.standstill.ending() as is_behind:
        assert is_behind and not await loop.is_over()
    await waiting
    with loop.standstill.ending() as is_behind:
        assert not is_behind


async def test_a_standstill_while_another_is_made_up_for_is_one_more() -> None:
    loop = Loop()
    loop.stand_still()
    loop.beat()
    with loop.standstill.ending():
        loop.stand_still()
        loop.beat()
    assert not await loop.is_over()
    with loop.standstill.ending() as is_behind:
        assert is_behind
    assert await loop.is_over()


async def test_a_standstill_just_before_a_waiter_goes_on_holds_it_back() -> None:
    loop = Loop()
    loop.stand_still()
    waiting = asyncio.create_task(loop.standstill.over())
    await asyncio.sleep(0)
    loop.beat()
    with loop.standstill.ending():
        pass
    loop.stand_still()
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_an_error_ends_no_standstill() -> None:
    loop = Loop()
    loop.stand_still()
    loop.beat()
    with pytest.raises(TimeoutError), loop.standstill.ending():
        raise TimeoutError
    assert not await loop.is_over()


async def test_nobody_waits_where_nobody_makes_up_for_it() -> None:
    loop = Loop()
    loop.stand_still()
    waiting = asyncio.create_task(loop.standstill.over())
    await asyncio.sleep(0)
    loop.standstill.leave()
    await waiting
    assert await loop.is_over()
