"""The composition root of the roles: `python -m meterstream.deploy.roles ROLE`, one role in one process.

Exit codes: 0 drained after SIGTERM; 70 stopped because going on could lose or double usage, or because a record of
our own cannot be read (a restart changes nothing: a person has to look); 78 the settings are wrong; 1 anything else, a
server that does not answer among it (restart). A role that hangs while it should drain is ended by SIGALRM.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from meterstream.deploy.connections import Address, resolve
from meterstream.deploy.failures import explain
from meterstream.deploy.kafka import client_options
from meterstream.deploy.running import logs, tracing
from meterstream.deploy.running.endpoint import Endpoint
from meterstream.deploy.running.health import HealthFile
from meterstream.deploy.running.instance import run_as_member
from meterstream.schema.errors import MeterstreamError, RecordUnreadable, StopConsuming, Unreachable, UsageError
from meterstream.schema.settings import Settings

log = logging.getLogger("meterstream.roles")

EXIT_STOPPED: Final = 70
EXIT_CONFIG: Final = 78
ALARM_MARGIN_S: Final = 5.0

RoleMain = Callable[[Settings, HealthFile, asyncio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Role:
    """What runs a role until the event is set, and which addresses it needs: no role is given more."""

    run: RoleMain
    needs: tuple[Address, ...]


async def _rater(settings: Settings, health: HealthFile, stop: asyncio.Event) -> None:
    from meterstream.processors.rating import service

    # Never a named member: see `service.run`.
    await service.run(settings, client_options=client_options(settings), health=health, stop=stop)


async def _aggregator(settings: Settings, health: HealthFile, stop: asyncio.Event) -> None:
    from meterstream.processors.aggregation import app, service

    async def run(options: dict[str, Any], _membership: dict[str, Any]) -> None:
        await service.run(settings, client_options=options, health=health, stop=stop)  # Faust takes the name itself

    await run_as_member(settings, app.APP_ID, run)


async def _sink_postgres(settings: Settings, health: HealthFile, stop: asyncio.Event) -> None:
    from meterstream.sinks.postgres import service

    async def run(options: dict[str, Any], membership: dict[str, Any]) -> None:
        await service.run(settings, client_options=options, membership=membership, health=health, stop=stop)

    await run_as_member(settings, service.GROUP, run)


ROLES: Final[dict[str, Role]] = {
    "rater": Role(_rater, ("kafka_bootstrap",)),
    "aggregator": Role(_aggregator, ("kafka_bootstrap",)),
    "sink-postgres": Role(_sink_postgres, ("kafka_bootstrap", "postgres_ingest_dsn")),
}


def main(arguments: list[str]) -> int:
    """Runs one role until SIGTERM or SIGINT; returns the exit code."""
    if len(arguments) != 1 or arguments[0] not in ROLES:
        print(f"usage: python -m meterstream.deploy.roles {{{','.join(ROLES)}}}", file=sys.stderr)
        return EXIT_CONFIG
    role = arguments[0]
    logs.configure(role)
    try:
        settings = resolve(Settings.load(), ROLES[role].needs)
    except UsageError as error:
        log.error("%s", error)
        return _code(error)
    health = HealthFile(settings.home, role)
    endpoint = Endpoint(health)
    endpoint.start(settings.metrics_host, settings.metrics_port)
    tracing.start(role)
    return asyncio.run(_run(role, settings, health, endpoint))


def _code(error: MeterstreamError) -> int:
    is_final = isinstance(error, UsageError) and not isinstance(error, Unreachable)
    return EXIT_CONFIG if is_final else 1


async def _run(role: str, settings: Settings, health: HealthFile, endpoint: Endpoint) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def drain() -> None:
        # Whoever supervises us may be gone: then nobody else would end a drain that hangs.
        signal.alarm(math.ceil(settings.drain_timeout_s + ALARM_MARGIN_S))
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    code = 0
    try:
        await ROLES[role].run(settings, health, stop)
    except (StopConsuming, RecordUnreadable) as error:
        health.write("stopped", f"{type(error).__name__}: {error}")
        log.error("stopped: %s", error)
        code = EXIT_STOPPED
    except MeterstreamError as error:
        health.write("stopped", str(error))
        log.error("%s", error)
        code = _code(error)
    except asyncio.CancelledError:  # nobody cancels a role: it comes out of a client that has lost its servers
        log.error("%s gave up what it was doing: its connections were closed under it", role)
        code = 1
    except Exception as error:
        log.exception("%s ends with an error", role)
        if (said := explain(error)) is not None:
            log.error("%s", said)  # the last word, which `status` repeats
        code = 1
    endpoint.stop()
    tracing.stop()
    if code or threading.active_count() > 1:
        # Faust's consumer has a thread and tasks of its own, which outlive an error and hear no cancellation. The
        # role has closed what it must: whatever runs on must not keep a broken process alive.
        logging.shutdown()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
