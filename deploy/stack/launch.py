"""Becomes a server: set up this process, wait for the word, then replace it by the command.

Run as a file with a bare interpreter: `python -I -S launch.py PLAN COMMAND...`; PLAN is JSON:
`cwd`, `input` (a file for standard input, null: none), `death_signal` (null: outlives its parent),
`user` (null, "namespace" or a uid) and `nice`.
It waits on standard input for one byte before it starts the command, so whoever starts it can write
the process down first: if that one dies in between, the input ends and nothing was started. The
process id and its start time stay the same over the change.

Imports the standard library only; it also works where the package cannot be imported.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

CLONE_NEWUSER = 0x1000_0000
PR_SET_PDEATHSIG = 1
NOBODY = 65534


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _enter_namespace(libc: Any) -> None:
    """Looks like `nobody` from inside, stays the same user for the kernel's file checks."""
    uid, gid = os.geteuid(), os.getegid()
    _check(libc.unshare(CLONE_NEWUSER), "user namespace")
    for name, text in (
        ("setgroups", b"deny"),
        ("uid_map", b"%d %d 1" % (NOBODY, uid)),
        ("gid_map", b"%d %d 1" % (NOBODY, gid)),
    ):
        with open(f"/proc/self/{name}", "wb") as file:  # text would import a codec, perhaps out of reach by now
            file.write(text)


def _become(libc: Any, user: str | int | None) -> None:
    if user == "namespace":
        _enter_namespace(libc)
    elif isinstance(user, int):
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)


def main(arguments: list[str]) -> int:
    """Returns only if the command could not be started; the reason is on standard error."""
    plan = json.loads(arguments[0])
    command = arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        os.setsid()
        os.nice(plan["nice"])
        _become(libc, plan["user"])
        if plan["death_signal"] is not None:  # after the change of user, which would clear it
            _check(libc.prctl(PR_SET_PDEATHSIG, plan["death_signal"], 0, 0, 0), "death signal")
        os.chdir(plan["cwd"])
        # Python ignores SIGPIPE, and an ignored signal stays ignored in the command.
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if os.read(0, 1) != b"\n":
            return 125
        os.dup2(os.open(plan["input"] or os.devnull, os.O_RDONLY), 0)
        os.execv(command[0], command)  # noqa: S606 - the whole point of this file
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
