"""Makes servers ready for the roles: topics, tables, logins, the shipped prices. Safe to repeat."""

from __future__ import annotations

from meterstream.deploy import database, prices, stack, topics
from meterstream.deploy.connections import resolve
from meterstream.schema.settings import Settings


async def prepare(settings: Settings) -> list[str]:
    """Brings broker and database to this version; returns what was made or changed, for people. May block.

    Logins of the local stack get the passwords that its folder keeps; elsewhere they are the administrator's
    business. Raises UsageError, MigrationError, and what the clients raise.
    """
    is_local = not settings.postgres_ingest_dsn.get_secret_value()
    resolved = resolve(settings)
    roles = (database.INGEST_ROLE, database.READER_ROLE) if is_local else ()
    done = await topics.apply(resolved)
    done += await database.prepare(resolved, passwords={role: stack.password(resolved.home, role) for role in roles})
    added = await prices.load_shipped(resolved)
    if added.rows:
        done.append(f"prices: {added.rows} rows, revision {added.revision}")
    return done
