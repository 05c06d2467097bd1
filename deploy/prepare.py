"""Makes servers ready for the roles: topics, tables, logins, the shipped prices. Safe to repeat."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

from meterstream.deploy import database, stack, topics
from meterstream.deploy.connections import administrator, resolve
from meterstream.deploy.failures import explained
from meterstream.deploy.pricing import prices
from meterstream.schema.errors import MeterstreamError, MigrationError, UsageError
from meterstream.schema.settings import Settings

POSTGRES_MIN: Final = 15


async def prepare(settings: Settings, *, sets_passwords: bool = False) -> list[str]:
    """Brings broker and database to this version; returns what was made or changed, for people. May block.

    Logins of the local stack get the passwords that its folder keeps; elsewhere they are the administrator's
    business, or, with `sets_passwords`, get those of the settings' DSNs. Raises UsageError where a setting is missing
    or such a DSN has no password of the login, MeterstreamError with the fix where a server cannot be reached, is too
    old, refuses, or is not as this version can take it.
    """
    is_local = not settings.postgres_ingest_dsn.get_secret_value()
    resolved = resolve(settings)
    passwords = _passwords(settings) if sets_passwords else {}
    if is_local:
        passwords = {role: stack.password(resolved.home, role) for role in (database.INGEST_ROLE, database.READER_ROLE)}
    try:
        return await _prepare(resolved, passwords)
    except UsageError as error:  # asked rightly: it is the servers that must be mended
        raise MeterstreamError(str(error)) from error
    except MigrationError as error:
        if not is_local:
            raise
        raise MigrationError(
            f"{error}. Or begin anew without what is stored here: `meterstream down`, then move {resolved.home} away "
            "or set METERSTREAM_HOME to another folder"
        ) from error


def _passwords(settings: Settings) -> dict[str, str]:
    """Login -> password, as the settings' DSNs have them."""
    logins = {
        database.INGEST_ROLE: ("METERSTREAM_POSTGRES_INGEST_DSN", settings.postgres_ingest_dsn),
        database.READER_ROLE: ("METERSTREAM_POSTGRES_READER_DSN", settings.postgres_reader_dsn),
    }
    passwords = {}
    for login, (name, dsn) in logins.items():
        parts = urlsplit(dsn.get_secret_value())
        if unquote(parts.username or "") != login or not parts.password:
            raise UsageError(f"{name}: to set its password it must be postgresql://{login}:PASSWORD@HOST:PORT/DATABASE")
        passwords[login] = unquote(parts.password)
    return passwords


async def _prepare(settings: Settings, passwords: dict[str, str]) -> list[str]:
    async with administrator(settings) as connection:
        refuse_old_server(connection.get_server_version().major)
    done = await topics.apply(settings)
    with explained():
        done += await database.prepare(settings, passwords=passwords)
    # Where this version has changed something, its entries may be others, too.
    added = await prices.load_shipped(settings, is_whole=bool(done))
    if added.rows:
        done.append(f"prices: {added.rows} {'row' if added.rows == 1 else 'rows'}, revision {added.revision}")
    return done


def refuse_old_server(major: int) -> None:
    """Raises UsageError for a Postgres of that major version that lacks what the tables need."""
    if major < POSTGRES_MIN:
        raise UsageError(f"this is Postgres {major}: meterstream needs {POSTGRES_MIN} or newer, upgrade it first")
