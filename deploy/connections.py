"""Where the servers are: what the settings say, else the local stack of the folder."""

from __future__ import annotations

from typing import Any, Final

from pydantic import SecretStr

from meterstream.deploy import stack
from meterstream.schema.errors import UsageError
from meterstream.schema.settings import Settings

INGEST_LOGIN: Final = "meterstream_ingest"
READER_LOGIN: Final = "meterstream_reader"


def resolve(settings: Settings, *, kafka: bool = True, postgres: bool = True) -> Settings:
    """The settings with every empty address filled from the running local stack; what is set stays.

    `kafka`, `postgres`: which of the two the caller needs. The passwords of the two logins are those that the
    folder keeps; setting them in the database is the bootstrap's work. May wait up to 5 s for the folder's lock.
    Raises UsageError when a needed server has no address, StackError where the folder's state is damaged.
    """
    needed = _needed(kafka=kafka, postgres=postgres)
    missing = [name for name in needed if not _is_set(settings, name)]
    if not missing:
        return settings
    addresses = stack.addresses(settings.home)
    if addresses is None:
        raise UsageError(_unreachable(missing))
    found: dict[str, Any] = {}
    for name in missing:
        match name:
            case "kafka_bootstrap":
                found[name] = addresses.kafka_bootstrap
            case "postgres_admin_dsn":
                found[name] = SecretStr(addresses.dsn())
            case "postgres_ingest_dsn":
                found[name] = SecretStr(addresses.dsn(INGEST_LOGIN, stack.password(settings.home, INGEST_LOGIN)))
            case "postgres_reader_dsn":
                found[name] = SecretStr(addresses.dsn(READER_LOGIN, stack.password(settings.home, READER_LOGIN)))
    return settings.model_copy(update=found)


def _needed(*, kafka: bool, postgres: bool) -> list[str]:
    names = ["kafka_bootstrap"] if kafka else []
    return names + (["postgres_admin_dsn", "postgres_ingest_dsn", "postgres_reader_dsn"] if postgres else [])


def _is_set(settings: Settings, name: str) -> bool:
    value = getattr(settings, name)
    return bool(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _unreachable(missing: list[str]) -> str:
    what = "broker" if missing == ["kafka_bootstrap"] else "database" if "kafka_bootstrap" not in missing else "servers"
    variables = " and ".join(f"METERSTREAM_{name.upper()}" for name in missing)
    return f"no {what}: run `meterstream up` or set {variables}"
