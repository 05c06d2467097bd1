"""What a figure belongs to: cores, memory, versions. No names of hosts or folders."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from meterstream.deploy.stack.jars import KAFKA_VERSION

_PACKAGES: Final = ("meterstream", "aiokafka", "asyncpg", "msgspec", "faust-streaming")


@dataclass(frozen=True)
class Machine:
    """Where a run took place."""

    cores: int
    cpu: str
    memory_mb: int
    python: str
    kafka: str
    postgres: str
    packages: dict[str, str]


def describe(postgres_version: str) -> Machine:
    """Of this machine; the version of Postgres is what the server said."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu_model(),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        python=platform.python_version(),
        kafka=KAFKA_VERSION,
        postgres=postgres_version,
        packages={name: version(name) for name in _PACKAGES if is_installed(name)},
    )


def is_installed(name: str) -> bool:
    """Whether the distribution of that name is."""
    from importlib.metadata import PackageNotFoundError

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
