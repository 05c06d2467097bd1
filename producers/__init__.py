"""Publishes usage: the clients for services, and what the command line publishes with. See docs/publish.md."""

from meterstream.producers.buffer import Bounds
from meterstream.producers.client import AsyncMeterClient, MeterClient
from meterstream.producers.outbox import Stats
from meterstream.producers.transport.memory import MemoryTransport

__all__ = ["AsyncMeterClient", "Bounds", "MemoryTransport", "MeterClient", "Stats"]
