"""A stack of a test's own made ready without the shipped prices: 14,000 rows cost more than most tests."""

from __future__ import annotations

from pathlib import Path

from meterstream.deploy import database, stack, topics
from meterstream.deploy.connections import resolve
from meterstream.schema.settings import Settings


async def without_prices(home: Path) -> Settings:
    """Topics, tables and logins of the stack that runs in `home`; its resolved settings."""
    settings = resolve(Settings(home=home))
    await topics.apply(settings)
    logins = (database.INGEST_ROLE, database.READER_ROLE)
    await database.prepare(settings, passwords={login: stack.password(home, login) for login in logins})
    return settings
