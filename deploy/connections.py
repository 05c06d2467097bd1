"""Where the servers are, what the settings say, else the local stack of the folder; and the logins to Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never

import asyncpg
from pydantic import SecretStr

from meterstream.deploy import stack
from meterstream.deploy.database import INGEST_ROLE, READER_ROLE
from meterstream.deploy.failures import explained, login_failed
from meterstream.schema.errors import Unreachable
from meterstream.schema.settings import Settings

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # its generics are those of the stubs only

PostgresAddress = Literal["postgres_admin_dsn", "postgres_ingest_dsn", "postgres_reader_dsn"]
Address = Literal["kafka_bootstrap"] | PostgresAddress
ADDRESSES: Final[tuple[Address, ...]] = (
    "kafka_bootstrap",
    "postgres_admin_dsn",
    "postgres_ingest_dsn",
    "postgres_reader_dsn",
)

CONNECT_TIMEOUT_S: Final = 5.0


def resolve(settings: Settings, needed: Sequence[Address] = ADDRESSES) -> Settings:
    """The settings with every needed address that is empty filled from the running local stack; what is set stays.

    The passwords of the two logins are those that the folder keeps; setting them in the database is the
    bootstrap's work. May wait up to 5 s for the folder's lock. Raises Unreachable when a needed server has no
    address, StackError where the folder's state is damaged.
    """
    missing = [name for name in needed if not _is_set(settings, name)]
    if not missing:
        return settings
    addresses = stack.addresses(settings.home, {_server(name) for name in missing})
    if addresses is None:
        raise Unreachable(_no_address(missing))
    return settings.model_copy(update={name: _of_stack(name, addresses, settings.home) for name in missing})


def _server(name: Address) -> str:
    return "kafka" if name == "kafka_bootstrap" else "postgres"


def _of_stack(name: Address, addresses: stack.Addresses, home: Path) -> str | SecretStr:
    match name:
        case "kafka_bootstrap":
            return addresses.kafka_bootstrap
        case "postgres_admin_dsn":
            return SecretStr(addresses.dsn())
        case "postgres_ingest_dsn":
            return SecretStr(addresses.dsn(INGEST_ROLE, stack.password(home, INGEST_ROLE)))
        case "postgres_reader_dsn":
            return SecretStr(addresses.dsn(READER_ROLE, stack.password(home, READER_ROLE)))
        case _:
            assert_never(name)


def _is_set(settings: Settings, name: str) -> bool:
    value = getattr(settings, name)
    return bool(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _no_address(missing: Sequence[Address]) -> str:
    what = (
        "broker" if list(missing) == ["kafka_bootstrap"] else "servers" if "kafka_bootstrap" in missing else "database"
    )
    variables = " and ".join(_variable(name) for name in missing)
    return f"no {what}: run `meterstream up` or set {variables}"


@asynccontextmanager
async def administrator(settings: Settings) -> AsyncIterator[Connection]:
    """A connection to Postgres as administrator, closed at the end. Blocks on the database.

    Raises Unreachable where it cannot be reached, UsageError where its tables are missing or it refuses what the
    body asks.
    """
    async with _logged_in(settings, "postgres_admin_dsn") as connection:
        yield connection


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[Connection]:
    """As `administrator`, with the login that may only read: for what lists and shows."""
    async with _logged_in(settings, "postgres_reader_dsn") as connection:
        yield connection


@asynccontextmanager
async def _logged_in(settings: Settings, address: PostgresAddress) -> AsyncIterator[Connection]:
    connection = await connect(settings, address)
    try:
        with explained():
            yield connection
    finally:
        await connection.close()


async def connect(settings: Settings, address: PostgresAddress) -> Connection:
    """A login in UTC, to be closed by the caller. Blocks at most CONNECT_TIMEOUT_S. Raises Unreachable, and
    UsageError where the address cannot be read."""
    dsn: SecretStr = getattr(settings, address)
    try:
        return await asyncpg.connect(
            dsn.get_secret_value(),
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"timezone": "UTC", "application_name": "meterstream"},
        )
    except ValueError as error:  # it quotes a piece of the DSN, maybe of the password: no cause is kept
        raise login_failed(_variable(address), error) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise login_failed(_variable(address), error) from error


def _variable(address: Address) -> str:
    return f"METERSTREAM_{address.upper()}"
