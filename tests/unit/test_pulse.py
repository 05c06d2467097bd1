"""A process that stood still, and one that has much to do."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from meterstream.processors.aggregation.pulse import Pulse

PAUSE_S = 0.3
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
