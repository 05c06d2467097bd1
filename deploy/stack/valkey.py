"""Valkey from a wheel: hints for Redis clients, disposable by design."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from meterstream.deploy.stack import wheels
from meterstream.deploy.stack.host import HERE, Host, Steps
from meterstream.deploy.stack.ports import HOST
from meterstream.deploy.stack.state import VALKEY_USER


@dataclass(frozen=True)
class Valkey:
    """`durable`: with an append-only file, synced every second."""

    durable: bool = True

    name = "valkey"
    ports = ("valkey",)
    stop_signal = signal.SIGTERM
    abort_signal = signal.SIGKILL

    def start(self, host: Host) -> Steps:
        """See `Server`."""
        port = host.state.ports["valkey"]
        password = host.state.passwords[VALKEY_USER]
        if not host.is_running(self.name):
            home = host.folder.data(self.name)
            home.mkdir(mode=0o700, exist_ok=True)
            yield from host.await_alone(home)
            with open(os.open(home / "valkey.conf", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(configuration(port, password, durable=self.durable))
            host.serve(self, [wheels.valkey(), f"{HERE}/valkey.conf"], cwd=home)
        yield from host.await_ready(self, _answers(port, password))


def configuration(port: int, password: str, *, durable: bool) -> str:
    """The text of valkey.conf; paths are relative to the server's folder."""
    return (
        f"bind {HOST}\nport {port}\nrequirepass {password}\ndir .\ndaemonize no\n"
        f'save ""\nappendonly {"yes" if durable else "no"}\nappendfsync everysec\n'
    )


def _answers(port: int, password: str) -> Iterator[bool]:
    while True:
        yield answers(port, password)


def answers(port: int, password: str) -> bool:
    """Whether it answers a PING. Blocks up to 1 s."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as link:
            link.sendall(f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode("ascii"))
            with link.makefile("rb") as said:
                return said.read().startswith(b"+OK\r\n+PONG\r\n")
    except OSError:
        return False
