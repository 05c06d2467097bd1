"""The command line's frame: late imports, clear errors, exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from types import SimpleNamespace

import asyncpg
import click
import pytest

from meterstream.deploy.cli import COMMANDS, group
from meterstream.schema.errors import SettingsError, StackBusy, Unreachable, UsageError

MAIN = "from meterstream.deploy.cli import main; main()"


def run(*arguments: str, before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    """The entry point in a process of its own, with code around it."""
    program = f"{before}\ntry:\n    {MAIN}\nfinally:\n    {after or 'pass'}"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"meterstream, version {version('meterstream')}\n")


def test_help_lists_every_command_and_imports_nothing_that_is_heavy() -> None:
    ours = "(name for name in sys.modules if name.startswith('meterstream.'))"
    heavy = "{'aiokafka', 'asyncio', 'asyncpg', 'email', 'msgspec', 'pydantic', 'rich', 'faust'}"
    said = f"print(*sorted({heavy} & set(sys.modules)), *sorted({ours}), file=sys.stderr)"
    done = run("--help", after=said, before="import sys")
    light = "deploy deploy.cli deploy.cli.group schema schema.errors"
    assert (done.returncode, done.stderr.split()) == (0, [f"meterstream.{name}" for name in light.split()])
    listed = done.stdout[done.stdout.index("Commands:") :]
    assert [line.split()[0] for line in listed.splitlines()[1:] if line.startswith("  ") and line[2] != " "] == list(
        COMMANDS
    )


def test_preparing_servers_does_not_load_what_parses_prices() -> None:
    """A tenth of a second of each `up`; mostly there is nothing to parse."""
    code = "import sys, meterstream.deploy.prepare; print([name for name in sys.modules if 'price_f' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = group.program.get_command(click.Context(group.program), name)
    assert command is not None
    assert command.help
    _, _, listed = COMMANDS[name]
    assert listed.endswith(".")
    assert " ".join(command.help.split()).startswith(listed.removesuffix(".")), "the table of `--help` repeats it"


def helps(command: click.Command, context: click.Context) -> Iterator[str]:
    """Of a command and all below it."""
    yield command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from helps(below, click.Context(below, info_name=name, parent=context))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_for_people(name: str) -> None:
    context = click.Context(group.program)
    command = group.program.get_command(context, name)
    assert command is not None
    for text in helps(command, click.Context(command, info_name=name, parent=context)):
        assert not re.search(r"\bNone\b|<class|object at", text), text


def test_the_light_install_knows_its_version() -> None:
    done = run("--version", before="import sys; sys.modules['click'] = None")
    assert (done.returncode, done.stdout) == (0, f"meterstream, version {version('meterstream')}\n")


def test_the_light_install_says_what_to_install() -> None:
    done = run("up", before="import sys; sys.modules['click'] = None")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "meterstream[local]"' in done.stderr
    assert 'pip install "meterstream[pipeline]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StackBusy("busy: wait"), 1, "meterstream: busy: wait\n"),
        (UsageError("not so"), 2, "meterstream: not so\n"),
        (
            SettingsError(["A: wrong", "B: wrong"]),
            2,
            "meterstream: 2 setting(s) are wrong:\n  - A: wrong\n  - B: wrong\n",
        ),
        (KeyboardInterrupt(), 130, "meterstream: interrupted\n"),
        (click.UsageError("bad option"), 2, "Error: bad option\n"),
        (
            ModuleNotFoundError("x", name="asyncpg"),
            2,
            'meterstream: the package asyncpg is missing: pip install "meterstream[pipeline]"\n',
        ),
        (
            ModuleNotFoundError("x", name="psutil"),
            2,
            'meterstream: the package psutil is missing: pip install "meterstream[local]"\n',
        ),
        (Unreachable("gone: up"), 1, "meterstream: gone: up\n"),
        (
            PermissionError(13, "Permission denied", "x"),
            1,
            f"meterstream: x: Permission denied: not allowed to user id {os.geteuid()}; check its owner, or set "
            "METERSTREAM_HOME to another folder\n",
        ),
        (asyncpg.PostgresSyntaxError("odd"), 1, "meterstream: Postgres refuses: odd\n"),
        (asyncpg.ClientConfigurationError("pa/ss"), 2, "%-escape what is special\n"),
    ],
)
def test_an_error_is_one_clear_line(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "failing", ("commands", "failing", "Fails."))
    monkeypatch.setattr(group, "import_module", lambda _: SimpleNamespace(failing=failing))
    assert group.run(["failing"]) == code
    assert capsys.readouterr().err.endswith(said)


CTRL_C = """
import signal, sys
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise RuntimeError("as a class that is being made would say") from error
sys.meta_path.insert(0, CtrlC())
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("click", ""),
        ("meterstream.deploy.cli.group", ""),
        ("meterstream.deploy.cli.stack", ""),
        ("meterstream.schema.settings", "meterstream: interrupted\n"),
        ("asyncpg", "meterstream: interrupted\n"),
    ],
)
def test_ctrl_c_in_an_import_is_no_traceback(name: str, said: str) -> None:
    done = run("status", before=CTRL_C.format(name=name))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


def test_ctrl_c_while_the_event_loop_is_made_is_one_word() -> None:
    """Half a loop, and a coroutine that nobody awaits, would make Python complain of both."""
    done = run(
        "status",
        before=(
            "import os, signal, socket\n"
            "pair = socket.socketpair\n"
            "def interrupted():\n"
            "    signal.raise_signal(signal.SIGINT)\n"
            "    return pair()\n"
            "socket.socketpair = interrupted\n"
            "os.environ['METERSTREAM_KAFKA_BOOTSTRAP'] = '127.0.0.1:9'"
        ),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nmeterstream: interrupted\n")


def test_where_ctrl_c_is_ignored_it_stays_ignored() -> None:
    done = run(
        "--version",
        before="import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + CTRL_C.format(name="click"),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_our_own_mistakes_are_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "failing", ("no_such_file", "failing", "Fails."))
    with pytest.raises(ModuleNotFoundError, match="no_such_file"):
        group.run(["failing"])


def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.close()
        assert writer.stderr.read() == ""
    assert writer.returncode in (0, 1)
