"""Fixtures over the real stack: Kafka, Postgres and Valkey from packages, in a folder of the test's own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from meterstream.deploy import stack as local_stack

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started by a shell's `&`, which makes children ignore Ctrl-C: the tests that press it need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("random", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running stack, for one test module: topics and tables start empty. Dies with pytest."""
    folder = tmp_path_factory.mktemp("stack") / ".meterstream"
    local_stack.up(folder, durable=False, bind_to_parent=True)
    yield folder
    local_stack.down(folder)


@pytest.fixture(scope="module")
def stack(home: Path) -> local_stack.Addresses:
    """Where the servers of `home` listen."""
    addresses = local_stack.addresses(home)
    assert addresses is not None
    return addresses
