"""Real Kafka, PostgreSQL and Valkey for one folder, from packages: no Docker, no system Java.

Everything blocks and everything is safe to repeat. Linux only: processes are known by /proc and pidfds.
"""

from meterstream.deploy.stack.addresses import Addresses
from meterstream.deploy.stack.lifecycle import (
    ServerStatus,
    StackStatus,
    addresses,
    down,
    password,
    psql_line,
    status,
    up,
)
from meterstream.deploy.stack.warming import warm

__all__ = [
    "Addresses",
    "ServerStatus",
    "StackStatus",
    "addresses",
    "down",
    "password",
    "psql_line",
    "status",
    "up",
    "warm",
]
