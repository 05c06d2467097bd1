"""Where the servers of one folder listen."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass(frozen=True)
class Addresses:
    """Of a stack that is up. Passwords and what holds one are left out of the repr."""

    kafka_bootstrap: str
    postgres_host: str
    postgres_port: int
    postgres_superuser: str
    postgres_password: str = field(repr=False)
    valkey_url: str = field(repr=False)

    def dsn(self, user: str | None = None, password: str | None = None, database: str = "meterstream") -> str:
        """A Postgres connection string; without a user that of the superuser. Holds the password."""
        user, password = (self.postgres_superuser, self.postgres_password) if user is None else (user, password or "")
        who = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{who}@{self.postgres_host}:{self.postgres_port}/{quote(database, safe='')}"
