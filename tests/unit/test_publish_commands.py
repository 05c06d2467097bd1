"""What is asked wrongly of `publish` and `simulate` is said in words, with exit code 2, before anything is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meterstream.deploy.cli import group
from meterstream.deploy.cli.text import counted, printable

WRONG_NUMBERS = ("x", "", "nan", "-1", "1e400", "9" * 30, "9" * 5000, "٣", " 5", "5 ", "1_0", "+5")


@pytest.fixture(autouse=True)
def _no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METERSTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("METERSTREAM_KAFKA_BOOTSTRAP", "127.0.0.1:1")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert group.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.strip().splitlines()[-1]


@pytest.mark.parametrize("value", [*WRONG_NUMBERS, "inf", "-inf", "0", "1e-300", "-0"])
def test_a_rate_that_makes_no_sense(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'--rate'" in said(capsys, "simulate", f"--rate={value}")


@pytest.mark.parametrize("value", [*WRONG_NUMBERS, "1.5"])
@pytest.mark.parametrize("option", ["--events", "--tenants", "--seed"])
def test_a_count_that_makes_no_sense(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"'{option}'" in said(capsys, "simulate", f"{option}={value}")


@pytest.mark.parametrize(
    "command",
    ["price add --per", "price retire --above", "alerts ls --limit", "top --limit", "demo --events", "logs -n",
     "migrate down --to", "bench --events"],
)  # fmt: skip
def test_the_reason_stands_beside_the_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *command.split(), "٣")
    assert command.split()[-1] in text and "ARABIC-INDIC DIGIT THREE is a digit of another script" in text


def test_a_run_of_centuries_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "simulate", "--events", "1000000000", "--rate", "0.001")
    assert "11,574,074 days" in text


@pytest.mark.parametrize("command", [["publish", "f"], ["simulate"]])
def test_another_topic(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "usage.backfill" in said(capsys, *command, "--topic", "usage.priced")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("missing", "missing cannot be opened: No such file"),
        ("", "without a name"),
        (".", "is a folder"),
        ("folder", "folder is a folder"),
        ("n" * 300, "name too long"),
        ("file/inside", "Not a directory"),
        ("secret", "secret cannot be opened: Permission denied"),
    ],
)
def test_a_file_that_cannot_be_read(
    file: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("folder").mkdir()
    Path("file").touch()
    if file == "secret":
        Path("secret").touch(0)
        if os.access("secret", os.R_OK):
            pytest.skip("the superuser may read everything")
    assert says in said(capsys, "publish", file)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 events"), (1, "1 event"), (2, "2 events"), (84211, "84,211 events")]
)
def test_numbers_and_their_nouns_agree(number: int, text: str) -> None:
    assert counted(number, "event") == text


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("caf\u00e9\x1b[31m\ud800\n") == "caf\u00e9\\x1b[31m\\ud800\\n"
