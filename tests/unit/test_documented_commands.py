"""Every command line in the documents is one that the program takes; what they do is tested where they are told."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from meterstream.deploy.cli.group import program

ROOT = Path(__file__).parents[2]


def lines() -> Iterator[tuple[str, str]]:
    """(page, command line): of each console block, continued lines joined, and those with options within the text."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text("utf-8")
        for inline in re.findall(r"`meterstream ([^`]* --[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            yield page.name, " ".join(inline.split())
        for block in re.findall(r"```console[^\n]*\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(r"^(?:\$ )?(?:docker compose run --rm cli|meterstream) (.*)$", line)
                if found:
                    yield page.name, found[1]


def words_of(line: str) -> list[str]:
    """Without a comment at the end, and with something for what is left out or stands for something."""
    return [
        "x=1" if word == "..." else word
        for word in shlex.split(re.sub(r"<[^>]+>", "some", line.replace("[", "").replace("]", "")), comments=True)
    ]


@pytest.mark.parametrize(("page", "line"), sorted(set(lines())))
def test_it_is_taken(page: str, line: str) -> None:
    command: click.Command = program
    words = words_of(line)
    while True:
        context = command.make_context(command.name, words)  # raises UsageError for what there is not
        if not isinstance(command, click.Group):
            return
        name, found, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None and found is not None
        command = found


def test_they_are_found() -> None:
    assert len(set(lines())) > 40
