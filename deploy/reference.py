"""`make reference`: writes docs/reference.md from the docstrings of what users import. It imports nothing."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reference.md"
HEAD: Final = """# Reference

Made by `make reference` from the docstrings: change those. Times are aware. How to publish is in [publish](publish.md),
what subscribers need in [subscribe](subscribe.md), settings are in [settings](settings.md).
"""
PUBLIC: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "meterstream.producers": (
        ("producers/client.py", "AsyncMeterClient MeterClient"),
        ("producers/options.py", "Options"),
        ("producers/made_event.py", "UsageFields"),
        ("producers/stream.py", "Stream"),
        ("producers/buffer.py", "Bounds"),
        ("producers/outbox.py", "Stats"),
        ("producers/transport/memory.py", "MemoryTransport SentRecord"),
    ),
    "meterstream.producers.transport.kafka": (("producers/transport/kafka.py", "KafkaTransport"),),
    "meterstream.schema.event": (("schema/event.py", "UsageEvent UsageData"),),
    "meterstream.schema.alert": (("schema/alert.py", "Alert AlertData Place decode_alert alert_id"),),
    "meterstream.schema.aggregate": (
        ("schema/aggregate.py", "Window Sums ModelSums BudgetState BudgetPeriod Progress decode_aggregate key_of"),
    ),
    "meterstream.schema.rejection": (("schema/rejection.py", "Rejected decode_rejected"),),
    "meterstream.schema.errors": (
        ("schema/errors.py", "MeterstreamError UsageError Unreachable DeliveryFailed BufferFull"),
        ("schema/errors.py", "ContractError EventRejected RecordUnreadable"),
    ),
}
"""Module that a user imports from -> (file, names of it)."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def page() -> str:
    """The text of docs/reference.md. Raises KeyError for a name that is not there. Blocks for reading the files."""
    parts = [HEAD]
    for module, files in PUBLIC.items():
        parts.append(f"## `{module}`\n")
        for file, names in files:
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            defined = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | _Function)}
            parts += ["\n".join(_entry(defined[name])) for name in names.split()]
    return "\n".join(parts)


def _entry(node: ast.ClassDef | _Function) -> Iterator[str]:
    if isinstance(node, _Function):
        yield f"### `{_signature(node)}`\n\n{_doc(node)}\n"
        return
    functions = {child.name: child for child in node.body if isinstance(child, _Function)}
    made = functions.get("__init__")
    bases = ", ".join(name for base in node.bases if not (name := ast.unparse(base)).startswith("_"))
    yield f"### `{_signature(made, node.name) if made else node.name}`\n\n{_doc(node)}\n"
    if bases:
        yield f"Base: `{bases}`\n"
    fields = [*_fields(node.body), *_fields(made.body if made else [])]
    methods = [
        f"- **`{_signature(each)}`**: {' '.join(_doc(each).split())}"
        for name, each in functions.items()
        if not name.startswith("_")
    ]
    if fields or methods:
        yield "\n".join([*fields, *methods]) + "\n"


def _fields(body: list[ast.stmt]) -> Iterator[str]:
    """Annotated names of a class; of `__init__` the attributes of self that have a docstring."""
    for node, after in zip_longest(body, body[1:]):
        doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        said = ""
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            said = f"{node.target.id}: {ast.unparse(node.annotation)}"
            if isinstance(node.value, ast.Call):  # pydantic's Field
                told = [word.value for word in node.value.keywords if word.arg == "description"]
                doc = doc or "".join(_text(part) for part in told)
            elif node.value is not None:
                said += f" = {ast.unparse(node.value)}"
        elif doc and isinstance(node, ast.Assign | ast.AnnAssign):
            said = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target).removeprefix("self.")
        if said:
            yield f"- `{said}`" + (f": {' '.join(str(doc).split())}" if doc else "")


def _text(node: ast.expr) -> str:
    """Of a text, or of an f-string with the names of what is in it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(getattr(node, "value", node))


def _signature(node: _Function, name: str = "") -> str:
    if any(ast.unparse(mark) == "property" for mark in node.decorator_list):
        return f"{node.name} -> {ast.unparse(node.returns)}" if node.returns else node.name
    node.args.args = [each for each in node.args.args if each.arg != "self"]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and not name else ""
    kind = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{kind}{name or node.name}({ast.unparse(node.args)}){returns}"


def _doc(node: ast.ClassDef | _Function) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
