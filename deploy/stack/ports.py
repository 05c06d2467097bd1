"""Free ports on the loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterable, Mapping

from meterstream.schema.errors import StackError

HOST = "127.0.0.1"

# Below the range that Linux gives to outgoing connections: a port that is ours while the server is
# down is not lost to some client meanwhile.
RANGE = range(15_000, 32_000)
TRIES_MAX = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(
    names: Iterable[str],
    kept: Mapping[str, int],
    *,
    taken: Iterable[int] = (),
    is_free: Callable[[int], bool] = is_free,
    draw: Callable[[], int] = lambda: random.choice(RANGE),  # noqa: S311 - spreads, keeps no secret
) -> dict[str, int]:
    """A port for each name: the kept one where it is free, else another; never one of `taken`.

    Raises StackError where no free port is found.
    """
    chosen: dict[str, int] = {}
    for name in names:
        used = {*taken, *chosen.values()}
        port = kept.get(name)
        if port is None or port in used or not is_free(port):
            port = _draw(used, is_free, draw)
        chosen[name] = port
    return chosen


def _draw(used: set[int], is_free: Callable[[int], bool], draw: Callable[[], int]) -> int:
    for _ in range(TRIES_MAX):
        port = draw()
        if port not in used and is_free(port):
            return port
    raise StackError(f"no free port found on {HOST} between {RANGE.start} and {RANGE.stop - 1}")


def is_open(port: int) -> bool:
    """Whether something listens. Waits at most half a second."""
    try:
        socket.create_connection((HOST, port), timeout=0.5).close()
    except OSError:
        return False
    return True
