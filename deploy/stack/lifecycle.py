"""Up, down, status: the whole stack of one folder."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meterstream.deploy.stack import postgres as postgres_server
from meterstream.deploy.stack import process, state, valkey, warming, wheels
from meterstream.deploy.stack.addresses import Addresses
from meterstream.deploy.stack.kafka import Kafka, broker_count
from meterstream.deploy.stack.ports import HOST
from meterstream.deploy.stack.postgres import DATABASE, Postgres, Source
from meterstream.deploy.stack.process import ProcessId
from meterstream.deploy.stack.starting import bring_up, explained
from meterstream.deploy.stack.state import Folder, State
from meterstream.deploy.stack.valkey import Valkey
from meterstream.schema.errors import StackError, UsageError

STOP_LIMIT_S = 30.0
READER = "meterstream_reader"  # the role that people read with, once the migrations have made it


@dataclass(frozen=True)
class ServerStatus:
    """One server.

    `died`: it was started and not stopped by us, and is gone; `up` starts it again. `no answer`: the process is
    there, but a client was given none: it starts, recovers or hangs.
    """

    name: str
    state: Literal["running", "no answer", "stopped", "died"]
    pid: int | None = None
    port: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class StackStatus:
    """The servers of one folder."""

    home: Path
    servers: tuple[ServerStatus, ...]


def up(
    home: Path,
    *,
    postgres: Source = "wheel",
    durable: bool = True,
    bind_to_parent: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> Addresses:
    """Starts what does not run and returns the addresses once all three answer. Blocks.

    `postgres` picks the binaries ("system": the newest installed), METERSTREAM_PG_BIN outdoes it.
    `durable=False` gives up safety against a crash of the machine, for tests. With `bind_to_parent` the
    servers end with the calling process, however that ends; then call it from the main thread. `meanwhile`
    is called once, while the servers boot. Whatever ends this early, Ctrl-C and SIGTERM included, ends
    what it has started.

    Raises StackError with the log's end and the likely fix, StackBusy where another command works on
    the same folder for more than 5 s, UsageError when bound from another thread.
    """
    if bind_to_parent and threading.current_thread() is not threading.main_thread():
        raise UsageError("bind_to_parent needs the main thread: servers would end with the calling thread")
    servers = (Valkey(durable), Postgres(postgres, durable), Kafka())
    return bring_up(Folder(home), servers, bind_to_parent=bind_to_parent, meanwhile=meanwhile).addresses()


def down(home: Path) -> list[str]:
    """Stops the servers that run, in order, and returns their names. Blocks up to half a minute; keeps all data.

    Roles are not servers: `supervisor.stop` drains them, before their servers go.
    A server that does not end is killed. After the first stop the JVM's cache is made in the background
    (6 s of one core at low priority, once for each machine); later starts are then a second faster.
    Raises StackError, StackBusy.
    """
    folder = Folder(home)
    with explained(folder.home):
        if not folder.home.is_dir():
            return []
        with folder.locked("down"):
            known = folder.load()
            stopped = _stop_all(folder, known) if known else []
    if "kafka" in stopped:
        warming.start_in_background()
    return stopped


def _stop_all(folder: Folder, known: State) -> list[str]:
    running = known.running()
    signals: dict[str, signal.Signals] = {server.name: server.stop_signal for server in (Kafka(), Postgres(), Valkey())}
    for name, recorded in running.items():
        process.send(recorded, signals[name])
    for recorded in running.values():
        if not process.wait(recorded, STOP_LIMIT_S):
            process.kill_group(recorded, STOP_LIMIT_S)
    known.processes.clear()
    folder.save(known)
    return sorted(running)


def status(home: Path, *, ask: bool = False) -> StackStatus:
    """Which servers run. Does not wait for the lock. Raises StackError where the state file is damaged.

    With `ask` each that runs is asked as a client would: that blocks up to about 1 s.
    """
    folder = Folder(home)
    with explained(folder.home):
        known = folder.load()
    with ThreadPoolExecutor(len(state.SERVERS)) as pool:
        found = pool.map(lambda name: _server_status(known, name, ask=ask), state.SERVERS)
        return StackStatus(folder.home, tuple(found))


def _server_status(known: State | None, name: str, *, ask: bool) -> ServerStatus:
    recorded = known.processes.get(name) if known else None
    port = known.ports.get(name) if known else None
    if known is None or recorded is None:
        return ServerStatus(name, "stopped", port=port)
    if not process.is_alive(recorded):
        return ServerStatus(name, "died", pid=recorded.pid, port=port)
    is_mute = ask and not _answers(known, name)
    return ServerStatus(name, "no answer" if is_mute else "running", recorded.pid, port, memory_bytes(recorded))


def _answers(known: State, name: str) -> bool:
    """As a client would see it. Blocks up to about 1 s."""
    port = known.ports[name]
    match name:
        case "kafka":
            return broker_count(port) > 0
        case "postgres":
            return postgres_server.accepts_logins(port)
        case _:
            return valkey.answers(port, known.passwords[state.VALKEY_USER])


def memory_bytes(recorded: ProcessId) -> int | None:
    """Of a process and its children, shared pages in proportion; None where it cannot be read."""
    import psutil

    try:
        top = psutil.Process(recorded.pid)
        return sum(part.memory_full_info().pss for part in (top, *top.children(recursive=True)))
    except psutil.Error:
        return None


def addresses(home: Path, needed: Collection[str] = state.SERVERS) -> Addresses | None:
    """Where the servers listen; None unless the `needed` ones run. Does not wait. Raises StackError."""
    folder = Folder(home)
    with explained(folder.home):
        known = folder.load()
    return known.addresses() if known and set(needed) <= known.running().keys() else None


def password(home: Path, user: str) -> str:
    """The password of a Postgres user of this folder, made up and kept the first time it is asked for.

    It also goes into the folder's pgpass. Setting it in the database is the caller's. Raises StackError
    where nothing was ever started here, StackBusy.
    """
    folder = Folder(home)
    with explained(folder.home):
        known = folder.load()
        if known and user in known.passwords:
            return known.passwords[user]
        if known is None:
            raise StackError(f"there is no stack in {folder.home}: run `meterstream up`")
        with folder.locked("password"):
            fresh = folder.load() or known
            made = fresh.passwords.setdefault(user, state.new_password())
            folder.save(fresh)
            return made


def psql_line(home: Path, port: int) -> str:
    """A line for the shell that opens psql, without a password in it."""
    folder = Folder(home)
    user = READER if f":{READER}:" in folder.pgpass_file.read_text(encoding="ascii") else state.SUPERUSER
    psql = "psql" if shutil.which("psql") else str(wheels.postgres() / "psql")
    file = shlex.quote(os.path.relpath(folder.pgpass_file))
    return f"PGPASSFILE={file} {shlex.quote(psql)} -h {HOST} -p {port} -U {user} {DATABASE}"
