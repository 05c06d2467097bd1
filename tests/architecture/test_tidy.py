"""What a reviewer would have to say again and again. Each message says what to do instead."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("producers", "processors", "sinks", "schema", "deploy")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    found = []
    for path in tracked():
        if path.suffix in {".gz", ".png"} or path.name == "LICENSE":
            continue
        found.append((str(path.relative_to(ROOT)), path.read_text("utf-8")))
    return found


PRODUCT = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_path_of_a_machine_and_no_index_address() -> None:
    machine = re.compile(
        r"(?<![\w./~-])/(?:work|home/\w|root|Users)/|--index-url|--extra-index|--find-links|files\.python"
    )
    for name, text in texts():
        if name == "tests/architecture/test_tidy.py":
            continue
        found = machine.search(text)
        assert not found, f"{name}: {found.group() if found else ''}: no path of a machine, no index address"


@pytest.mark.parametrize(("name", "fewest"), [("dev", 50), ("pipeline", 20), ("build", 3)])
def test_lock_files_carry_hashes(name: str, fewest: int) -> None:
    lock = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert "://" not in lock, "a lock file carries names, versions and hashes only"
    names = re.findall(r"^[a-z0-9][\w.\[\]-]*==", lock, re.MULTILINE)
    assert len(names) > fewest
    for block in re.split(r"\n(?=[a-z0-9])", lock.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_make_test_faults_runs_every_campaign() -> None:
    planned = subprocess.run(["make", "-n", "test-faults"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [command] = [line for line in planned.splitlines() if "pytest" in line]
    assert "-m campaign" in command
    folders = [ROOT / word for word in command.split() if word.startswith("tests")] or [ROOT / "tests"]
    mark = "@pytest.mark." + "campaign"
    campaigns = [path for path in tracked() if path.suffix == ".py" and mark in path.read_text("utf-8")]
    assert campaigns
    for path in campaigns:
        assert any(folder in path.parents or folder == path for folder in folders), f"{path.name} is never run"


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_module(path: Path) -> None:
    text = path.read_text("utf-8")
    if not text.strip():
        return
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says in its first line what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            is_empty = all(isinstance(statement, ast.Pass) for statement in node.body)
            assert not is_empty or "#" in "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]), (
                f"line {node.lineno}: an exception that is swallowed says why"
            )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length <= 100, f"{node.name} has {length} lines: look again"


@pytest.mark.parametrize("name", ["schema/money.py", "processors/rating/price.py", "processors/rating/book.py"])
def test_no_float_near_money(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text())
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), f"{name}:{node.lineno}"
        assert not (isinstance(node, ast.Name) and node.id == "float"), f"{name}:{node.lineno}"
        assert not isinstance(node, ast.Div) or name.endswith("book.py"), (
            f"{name}: / makes floats; use money.divide_half_even"
        )


def test_the_schema_of_the_database_has_no_float() -> None:
    for path in (ROOT / "schema" / "sql").rglob("*.sql"):
        found = re.search(r"\b(double precision|real|float\d?|money)\b", path.read_text(), re.IGNORECASE)
        assert not found, f"{path.name}: {found.group() if found else ''}: amounts are numeric, counts bigint"


def test_nothing_updates_history() -> None:
    history = r"(ledger|duplicates|rejected|adjustments|prices|claims_timed|claims_hashed)"
    for name, text in texts():
        if name.startswith(("tests/", "docs/")) or not name.endswith((".py", ".sql")):
            continue
        found = re.search(rf"\b(UPDATE|DELETE\s+FROM|TRUNCATE)\s+(meter\.)?{history}\b", text, re.IGNORECASE)
        assert not found, f"{name}: {found.group() if found else ''}: corrections are adjustments"
