"""Errors of the clients' libraries as one line for people: what is wrong and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
from aiokafka.errors import IllegalStateError, KafkaError

from meterstream.schema.errors import Unreachable, UsageError
from meterstream.schema.settings import UNREADABLE_DSN

DATABASE_FIX: Final = "`meterstream status` shows what runs, METERSTREAM_POSTGRES_*_DSN say where it is"
BROKER_FIX: Final = "`meterstream status` shows what runs, METERSTREAM_KAFKA_BOOTSTRAP says where it is"
NETWORK_FIX: Final = "`meterstream status` shows what runs, `meterstream up` starts it"

_RIGHTS: Final = (
    "the administrator (METERSTREAM_POSTGRES_ADMIN_DSN) must own the database and have CREATEROLE (on Postgres 15: be "
    "a superuser); where others have made the roles of meterstream, GRANT meterstream_owner TO it WITH ADMIN OPTION"
)
_NOT_PREPARED: Final = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)
_LOGIN: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
_AWAY: Final = (asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError)


def explain(error: BaseException) -> str | None:
    """The line for an error of a client or the operating system; None for any other: a mistake of ours.

    Never repeats a connection string: it may hold a password.
    """
    match error:
        case asyncpg.PostgresError():
            return _of_postgres(error)
        case asyncpg.ClientConfigurationError():
            return f"METERSTREAM_POSTGRES_*_DSN: {UNREADABLE_DSN}"
        case asyncpg.InterfaceError():
            return f"Postgres cannot be used: {error}: {DATABASE_FIX}"
        case IllegalStateError():
            return None
        case KafkaError():
            return f"Kafka cannot be used: {kafka_said(error)}: {BROKER_FIX}"
        case TimeoutError():
            return f"no answer in time: {NETWORK_FIX}"
        case OSError():
            return _of_system(error)
        case _:
            return None


def login_failed(variable: str, error: Exception) -> UsageError:
    """For an error of logging in to the database that `variable` names; its value may hold a password.

    Unreachable, but for a value that cannot be read: that does not pass.
    """
    match error:
        case ValueError():
            return UsageError(f"{variable}: {UNREADABLE_DSN}")
        case asyncpg.InvalidCatalogNameError():
            return Unreachable(f"{_first_line(error)}: create it, or mend {variable}")
        case asyncpg.InvalidAuthorizationSpecificationError():
            return Unreachable(
                f"cannot log in to Postgres: {_first_line(error)}; mend user and password in {variable}. The logins of "
                "meterstream are made by `meterstream prepare`, without a password"
            )
        case _:
            return Unreachable(
                f"cannot log in to Postgres: {_first_line(error)}; `meterstream status` shows what runs, "
                f"{variable} says where it is"
            )


@contextmanager
def explained() -> Iterator[None]:
    """What Postgres answers to the statements inside becomes a UsageError with the fix."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise UsageError(f"Postgres refuses: {_first_line(error)}; {_RIGHTS}") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UsageError(explain(error) or _first_line(error)) from error


def kafka_said(error: BaseException) -> str:
    """What the client says, without the class names and address families in it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error).removeprefix(f"{type(error).__name__}: ")
    if "Unable to bootstrap" in text or "Unable to get cluster metadata" in text:
        return "no broker answers, or it refuses METERSTREAM_KAFKA_SECURITY and its login"
    return text or type(error).__name__


def _first_line(error: Exception) -> str:
    """The first line: what follows is for whoever wrote the statement."""
    return str(error).partition("\n")[0] or (
        "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    )


def _of_postgres(error: asyncpg.PostgresError) -> str:
    if isinstance(error, _NOT_PREPARED):
        return f"the database is not prepared ({error}): run `meterstream up`, or `meterstream prepare`"
    if isinstance(error, _AWAY):
        return f"Postgres has gone, or does not take us yet ({error}): {DATABASE_FIX}"
    if isinstance(error, _LOGIN):
        return f"Postgres does not let us in: {error}: check METERSTREAM_POSTGRES_*_DSN"
    return f"Postgres refuses: {error}"


def _of_system(error: OSError) -> str | None:
    if error.filename is not None:
        fix = ""
        if error.errno in (errno.EACCES, errno.EPERM):
            fix = f": not allowed to user id {os.geteuid()}; check its owner, or set METERSTREAM_HOME to another folder"
        return f"{error.filename}: {error.strerror}{fix}"
    if error.errno == errno.ENOSPC:
        return "the disk is full: free some space and try again"
    if error.errno == errno.EPIPE:
        return None
    return f"no connection ({error.strerror or error}): {NETWORK_FIX}"
