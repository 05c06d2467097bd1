"""Databases of a test's own on the stack's server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr

from meterstream.deploy import database
from meterstream.deploy.stack import Addresses
from meterstream.schema.settings import Settings
from tests.integration.sink_log import PASSWORD, Server


@pytest.fixture
async def database_name(stack: Addresses) -> AsyncIterator[str]:
    """An empty database; gone at the end of the test."""
    name = f"test_{secrets.token_hex(4)}"
    await _as_root(stack, f"CREATE DATABASE {name}")
    yield name
    await _as_root(stack, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
async def template(stack: Addresses) -> str:
    """A prepared database that nobody is connected to."""
    name = f"template_{secrets.token_hex(4)}"
    await _as_root(stack, f"CREATE DATABASE {name}")
    settings = Settings(postgres_admin_dsn=SecretStr(stack.dsn(database=name)))
    await database.prepare(settings, passwords={database.INGEST_ROLE: PASSWORD})
    return name


@pytest.fixture
async def server(stack: Addresses, template: str) -> AsyncIterator[Server]:
    """A prepared database, empty; gone at the end of the test."""
    name = f"sink_{secrets.token_hex(4)}"
    await _as_root(stack, f"CREATE DATABASE {name} TEMPLATE {template}")
    await _as_root(stack, f"GRANT CONNECT, TEMPORARY ON DATABASE {name} TO meterstream_ingest")
    admin = await asyncpg.connect(stack.dsn(database=name))
    server = Server(stack.dsn(database.INGEST_ROLE, PASSWORD, name), admin)
    yield server
    for sink in server.sinks:
        await sink.close()
    await admin.close()
    await _as_root(stack, f"DROP DATABASE {name} WITH (FORCE)")


async def _as_root(stack: Addresses, statement: str) -> None:
    connection = await asyncpg.connect(stack.dsn())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
