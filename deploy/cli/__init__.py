"""The command line. One file a command group; a file is imported when its command is called."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

COMMANDS = {
    "up": ("stack", "up", "Start Kafka, Postgres and Valkey here, ready for use."),
    "down": ("stack", "down", "Drain the roles, stop the servers; the data stay."),
    "status": ("stack", "status", "Show what should run here, how it is, and what to do."),
    "doctor": ("doctor", "doctor", "Look at everything that can be set up wrong."),
    "logs": ("stack", "logs", "Show the ends of all logs, or of one NAME."),
    "run": ("run", "run", "Run roles until Ctrl-C, which drains them; a second one kills."),
    "prepare": ("prepare", "prepare", "Make topics, tables, logins and prices where they are missing."),
    "migrate": ("migrate", "migrate", "Bring the database's schema up, down, or look at it."),
    "topics": ("topics", "topics", "Make and check the topics."),
    "price": ("price", "price", "List and add prices, and say what events would cost."),
    "budget": ("budget", "budget", "Add, list and remove budgets that raise alerts."),
    "alerts": ("alerts", "alerts", "Follow and list the alerts that budgets raised."),
    "top": ("top", "top", "Show each tenant's events, spend, rate and budgets of today (UTC)."),
    "tenant": ("tenant", "tenant", "Set and list tenants' settings."),
    "demo": ("demo", "demo", "Run real usage through real Kafka into Postgres."),
    "verify": ("verify", "verify", "Prove that ledger, rollups, topics and live aggregates agree."),
    "where": ("verify", "where", "Say where the event with this ID is."),
    "explain": ("explain", "explain", "Say why an event was charged what it was."),
    "publish": ("publish", "publish", "Publish FILE, one CloudEvent in JSON a line."),
    "record": ("record", "record", "Send one event, checked as the rater will."),
    "import": ("import_csv", "import_group", "Bring in usage that was recorded elsewhere."),
    "rejected": ("rejected", "rejected", "Look at rejected events."),
    "replay": ("rejected", "replay", "Send rejected events again."),
    "simulate": ("simulate", "simulate_command", "Send made-up usage."),
    "bench": ("bench", "bench", "Measure CPU per event, rate and latency, here."),
}
"""Command -> (module of this package, name of the click command in it, its first line of help).

In the order in which `--help` lists them; the help is here too, so that `--help` need not import all of them.
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
