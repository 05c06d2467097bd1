"""The command line. One file a command group; a file is imported when its command is called."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

COMMANDS = {
    "up": ("meterstream.deploy.cli.stack", "up"),
    "down": ("meterstream.deploy.cli.stack", "down"),
    "status": ("meterstream.deploy.cli.stack", "status"),
    "doctor": ("meterstream.deploy.cli.doctor", "doctor"),
    "logs": ("meterstream.deploy.cli.stack", "logs"),
    "run": ("meterstream.deploy.cli.run", "run"),
    "prepare": ("meterstream.deploy.cli.prepare", "prepare"),
    "migrate": ("meterstream.deploy.cli.migrate", "migrate"),
    "topics": ("meterstream.deploy.cli.topics", "topics"),
    "price": ("meterstream.deploy.cli.price", "price"),
    "budget": ("meterstream.deploy.cli.budget", "budget"),
    "alerts": ("meterstream.deploy.cli.alerts", "alerts"),
    "top": ("meterstream.deploy.cli.top", "top"),
    "tenant": ("meterstream.deploy.cli.tenant", "tenant"),
    "demo": ("meterstream.deploy.cli.demo", "demo"),
    "verify": ("meterstream.deploy.cli.verify", "verify"),
    "where": ("meterstream.deploy.cli.verify", "where"),
    "explain": ("meterstream.deploy.cli.explain", "explain"),
    "publish": ("meterstream.deploy.cli.publish", "publish"),
    "record": ("meterstream.deploy.cli.record", "record"),
    "import": ("meterstream.deploy.cli.import_csv", "import_group"),
    "rejected": ("meterstream.deploy.cli.rejected", "rejected"),
    "replay": ("meterstream.deploy.cli.rejected", "replay"),
    "simulate": ("meterstream.deploy.cli.simulate", "simulate_command"),
    "bench": ("meterstream.deploy.cli.bench", "bench"),
}
"""Command -> (module, name of the click command in it), in the order in which `--help` lists them.

`--help` imports all of these modules for their one-line help: import what is heavy inside the command.
"""

INSTALL_HINT = (
    "This is the light install: it has the contract, not the command line.\n"
    '  pip install "meterstream[local]"      everything, with real servers for one machine\n'
    '  pip install "meterstream[pipeline]"   the roles and the command line, servers elsewhere'
)


EXIT_INTERRUPTED = 130


def main() -> None:
    """The entry point `meterstream`. Exits 0, 1 (failed), 2 (asked wrongly) or 130 (interrupted)."""
    leave_on_ctrl_c()
    try:
        import click as _  # noqa: F401 - only whether it is there
    except ImportError:
        sys.exit(_light(sys.argv[1:]))
    from meterstream.deploy.cli.group import run

    try:
        sys.exit(run())
    except KeyboardInterrupt:  # after the command itself
        sys.exit(EXIT_INTERRUPTED)


def leave_on_ctrl_c() -> None:
    """Until `raise_on_ctrl_c` Ctrl-C ends the process at once: nothing has been begun.

    A KeyboardInterrupt in the middle of an import may come out of it as another error, or not at all. Does nothing
    where Ctrl-C is ignored, or means something else already.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def raise_on_ctrl_c() -> None:
    """From now on it is a KeyboardInterrupt again, so that a command can put away what it has begun."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)


def _light(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        from importlib.metadata import version

        print(f"meterstream, version {version('meterstream')}")
        return 0
    print(INSTALL_HINT, file=sys.stderr)
    return 2
