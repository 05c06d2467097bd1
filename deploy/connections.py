"""Where the servers are: what the settings say, else the local stack of the folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never

import asyncpg
from pydantic import SecretStr

from meterstream.deploy import stack
from meterstream.deploy.database import INGEST_ROLE, READER_ROLE
from meterstream.deploy.failures import UNREADABLE_DSN
from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.settings import Settings

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # its generics are those of the stubs only

Address = Literal["kafka_bootstrap", "postgres_admin_dsn", "postgres_ingest_dsn", "postgres_reader_dsn"]
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
        raise Unreachable(_unreachable(missing))
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


def _unreachable(missing: Sequence[Address]) -> str:
    what = (
        "broker" if list(missing) == ["kafka_bootstrap"] else "servers" if "kafka_bootstrap" in missing else "database"
    )
    variables = " and ".join(f"METERSTREAM_{name.upper()}" for name in missing)
    return f"no {what}: run `meterstream up` or set {variables}"


def unreachable(variable: str, error: Exception) -> Unreachable:
    """For an error of logging in to the database that `variable` names; its value may hold a password."""
    if isinstance(error, ValueError):
        return Unreachable(f"{variable}: {UNREADABLE_DSN}")
    return Unreachable(
        f"cannot log in to Postgres: {reason_of(error)}; `meterstream status` shows what runs, "
        f"{variable} says where it is"
    )


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
async def _logged_in(
    settings: Settings, address: Literal["postgres_admin_dsn", "postgres_reader_dsn"]
) -> AsyncIterator[Connection]:
    dsn: SecretStr = getattr(settings, address)
    try:
        connection = await asyncpg.connect(dsn.get_secret_value(), timeout=CONNECT_TIMEOUT_S)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:  # the last: no DSN
        raise unreachable(f"METERSTREAM_{address.upper()}", error) from error
    try:
        yield connection
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise UsageError(f"the database is not prepared ({error}): run the migrations, or `meterstream up`") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UsageError(f"Postgres refuses, or has gone: {error}") from error
    finally:
        await connection.close()


def reason_of(error: BaseException) -> str:
    """The text of a client's error; its type's name where it has none, as a timeout."""
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
