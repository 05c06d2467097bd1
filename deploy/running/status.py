"""How everything that should run here is: servers are asked, roles are believed only while they speak.

What should run: the servers that a role needs, here or where the settings say, and the roles that somebody has
started and nobody has asked to stop.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient

from meterstream.deploy import event_loop, stack
from meterstream.deploy.failures import explain
from meterstream.deploy.kafka import client_options
from meterstream.deploy.running import health, registration, supervisor
from meterstream.deploy.running.health import Report, RoleHealth, Verdict
from meterstream.deploy.stack import ServerStatus
from meterstream.deploy.stack.starting import SPACE_BYTES_MIN
from meterstream.schema.errors import UsageError
from meterstream.schema.settings import UNREADABLE_DSN, Settings

ASK_TIMEOUT_S: Final = 3.0
SPEAKING: Final = frozenset({"running", "degraded", "draining"})
"""Verdicts under which a role's figures hold."""
_VARIABLES: Final = {"kafka": "METERSTREAM_KAFKA_BOOTSTRAP", "postgres": "METERSTREAM_POSTGRES_*_DSN"}
"""Where the settings name a server."""


@dataclass(frozen=True)
class Elsewhere:
    """A server that the settings name. `reason`: None where it answers."""

    name: str
    address: str
    reason: str | None

    @property
    def state(self) -> str:
        """As for the servers of the folder."""
        return "running" if self.reason is None else "no answer"


@dataclass(frozen=True)
class RoleStatus:
    """One role. `age_s`: seconds since it was heard of; `lag_records`: None where nobody knows it now;
    `endpoint`: see `meterstream.deploy.running.endpoint`.

    `failures`: how often in a row it has ended unasked; 0 once it has run for `supervisor.Restarts.healthy_s`.
    """

    name: str
    state: Verdict
    should_run: bool
    pid: int | None = None
    lag_records: int | None = None
    age_s: float | None = None
    reason: str | None = None
    detail: dict[str, Any] | None = None
    failures: int = 0
    endpoint: str | None = None


@dataclass(frozen=True)
class Status:
    """`next_steps` say what to do, most urgent first; there may be one although all is well.

    `free_bytes`: on the disk of the folder; None where there is no folder yet.
    """

    home: Path
    servers: tuple[ServerStatus, ...]
    elsewhere: tuple[Elsewhere, ...]
    roles: tuple[RoleStatus, ...]
    is_well: bool
    next_steps: tuple[str, ...]
    free_bytes: int | None


def look(settings: Settings) -> Status:
    """Blocks a few seconds at most. Raises StackError where the folder's state is damaged, OSError."""
    found = stack.status(settings.home, ask=True)
    elsewhere = event_loop.run(_ask_elsewhere(settings))
    named = {server.name for server in elsewhere}
    # Of servers that are elsewhere, those of the folder count only where they were started all the same.
    left_out = {*named, "valkey"} if named else set()
    servers = tuple(server for server in found.servers if server.pid or server.name not in left_out)
    asked: tuple[ServerStatus | Elsewhere, ...] = (*servers, *elsewhere)
    wanted = registration.wanted(settings.home)
    kafka_answers = any(server.name == "kafka" and server.state == "running" for server in asked)
    roles = _roles(health.read_all(settings.home), wanted.roles if wanted else (), kafka_answers=kafka_answers)
    is_supervised = registration.is_running(settings.home)
    free_bytes = shutil.disk_usage(settings.home).free if settings.home.is_dir() else None
    is_well = (
        not _is_full(free_bytes)
        and all(server.state == "running" for server in asked)
        and all(role.state == "running" for role in roles if role.should_run)
        and (wanted is None or is_supervised)
    )
    steps = (
        *_space_steps(found.home, free_bytes),
        *_server_steps(servers, elsewhere, roles),
        *_role_steps(roles, is_supervised=is_supervised),
    )
    return Status(found.home, servers, elsewhere, roles, is_well, tuple(dict.fromkeys(steps)), free_bytes)


# ---------------------------------------------------------------------------------------------- roles


def _roles(found: Iterable[RoleHealth], wanted: Iterable[str], *, kafka_answers: bool) -> tuple[RoleStatus, ...]:
    judged = {role.role: judge(role, should_run=role.role in wanted) for role in found}
    roles = {name: RoleStatus(name, "dead", should_run=True) for name in wanted} | judged
    if not kafka_answers:  # the end of a topic is not known while no broker answers
        roles = {name: replace(role, lag_records=None) for name, role in roles.items()}
    return tuple(roles[name] for name in sorted(roles))


def judge(role: RoleHealth, *, should_run: bool) -> RoleStatus:
    """What to show of a role: no figure that may be stale. One that is gone, and nobody wants, is stopped. Pure."""
    state: Verdict = "stopped" if role.state in ("dead", "unreadable") and not should_run else role.state
    report = role.report
    if report is None:
        return RoleStatus(role.role, state, should_run)
    is_speaking = role.state in SPEAKING
    failures = 0 if _has_recovered(report) else report.failures
    reasons = [] if role.state in ("silent", "dead") or report.reason is None else [report.reason]
    if failures and (is_speaking or role.state == "starting"):
        times = "once" if failures == 1 else f"{failures} times in a row"
        reasons.append(f"has failed {times} before: {report.last_failure}")
    return RoleStatus(
        name=role.role,
        state=state,
        should_run=should_run,
        pid=report.process.pid if is_speaking or role.state in ("starting", "silent") else None,
        lag_records=report.lag_records if is_speaking else None,
        age_s=role.age_s,
        reason="; ".join(reasons) or None,
        detail=report.detail if is_speaking else None,
        failures=failures,
        endpoint=report.endpoint if is_speaking else None,
    )


def _has_recovered(report: Report) -> bool:
    """Whether it has been at work for long enough since it failed."""
    at_work_s = (report.updated_at - report.started_at).total_seconds()
    return report.state in SPEAKING and at_work_s >= supervisor.Restarts.healthy_s


# ---------------------------------------------------------------------------------------------- servers elsewhere


async def _ask_elsewhere(settings: Settings) -> tuple[Elsewhere, ...]:
    asked: list[Awaitable[Elsewhere]] = []
    if settings.kafka_bootstrap:
        asked.append(_asked("kafka", settings.kafka_bootstrap, _ask_broker(settings)))
    for name in ("postgres_admin_dsn", "postgres_ingest_dsn", "postgres_reader_dsn"):
        dsn = getattr(settings, name).get_secret_value()
        if dsn:
            asked.append(_asked("postgres", f"METERSTREAM_{name.upper()}", _ask_database(dsn)))
    return tuple(await asyncio.gather(*asked))


async def _asked(name: str, address: str, question: Awaitable[None]) -> Elsewhere:
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await question
    except UsageError as error:
        return Elsewhere(name, address, str(error))
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        return Elsewhere(name, address, reason)
    return Elsewhere(name, address, None)


async def _ask_broker(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
    finally:
        await admin.close()


async def _ask_database(dsn: str) -> None:
    try:
        connection = await asyncpg.connect(dsn)
    except ValueError:  # its text may hold a part of the password
        raise UsageError(UNREADABLE_DSN) from None
    await connection.close()


# ---------------------------------------------------------------------------------------------- what to do


def _space_steps(home: Path, free_bytes: int | None) -> Iterable[str]:
    if _is_full(free_bytes):
        yield (
            f"only {(free_bytes or 0) >> 20} MB are free on the disk of {home}: free some space, then `meterstream up "
            "--roles`. On a full disk Kafka ends, Postgres stores nothing and the sink waits, and a role that cannot "
            "write its health falls silent; what Kafka has confirmed is not lost"
        )


def _is_full(free_bytes: int | None) -> bool:
    """Or nearly: the servers do not start either."""
    return free_bytes is not None and free_bytes < SPACE_BYTES_MIN


def _server_steps(
    servers: tuple[ServerStatus, ...], elsewhere: tuple[Elsewhere, ...], roles: tuple[RoleStatus, ...]
) -> Iterable[str]:
    stopped = [server.name for server in servers if server.state in ("stopped", "died")]
    running = [role.name for role in roles if role.state in SPEAKING]
    unnamed = _VARIABLES.keys() & set(stopped) - {other.name for other in elsewhere} if elsewhere else set()
    for name in unnamed:
        another = f"; {', '.join(running)} may have been given another" if running else ""
        yield (
            f"the settings name no {name}, and the one of this folder does not run{another}: set {_VARIABLES[name]}, "
            "or start it with `meterstream up`"
        )
    if servers and len(stopped) == len(servers) and not running and not elsewhere:
        yield "nothing runs here: `meterstream up --roles` starts servers and roles"
    elif set(stopped) - unnamed:
        yield "`meterstream up` starts the servers that do not run"
    for server in servers:
        if server.state == "no answer":
            yield (
                f"{server.name} runs and does not answer: `meterstream logs {server.name}`; should it stay so, "
                "`meterstream down`, then `meterstream up --roles`"
            )
    for other in elsewhere:
        if other.reason is not None:
            yield f"{other.name} ({other.address}): {other.reason}"


def _role_steps(roles: tuple[RoleStatus, ...], *, is_supervised: bool) -> Iterable[str]:
    wanted = [role for role in roles if role.should_run]
    if wanted and not is_supervised:
        yield "nobody keeps the roles running: `meterstream up --roles` starts them again, `meterstream logs` says more"
    for role in wanted:
        if role.state == "silent":
            yield (
                f"{role.name} has said nothing for {role.age_s or 0:.0f} s: `meterstream logs {role.name}`; "
                f"`kill -9 {role.pid}` is safe, it is started again"
            )
        elif role.state == "failed":
            yield f"{role.name} fails and is started again by itself: `meterstream logs {role.name}` says why"
        elif role.state in ("degraded", "unreadable") or (role.state in ("starting", "stopped") and role.reason):
            yield f"{role.name} is {role.state}: `meterstream logs {role.name}` says why, docs/operate.md what to do"
