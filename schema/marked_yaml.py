"""YAML that people write, read with the line of every part: each mistake can be named with its place and fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

DEPTH_MAX: Final = 40
"""Of lists and mappings in each other; a price file has nine."""

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C takes a tenth of the time: the shipped prices have half a megabyte."""

_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)

Parts = tuple[str | int, ...]
"""Where something stands: the keys and indexes that lead to it."""

_M = TypeVar("_M", bound=BaseModel)


@dataclass
class MarkedYaml:
    """One file while it is read. `hints`: what to write, by a field's name; `documentation`: the page for it."""

    name: str
    hints: Mapping[str, str]
    documentation: str
    lines: dict[Parts, int] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    scalars: yaml.constructor.SafeConstructor = field(default_factory=yaml.constructor.SafeConstructor)

    def load(self, text: str) -> object:
        """The data; times stay text. None where it could not be read: the mistakes say why."""
        try:
            aliases = _aliases(text)
            root = None if aliases else yaml.compose(text, _LOADER)
            data = None if root is None else self._plain(root, ())
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a number that is none, such as 0b2
            mark = getattr(error, "problem_mark", None)
            where = f"{self.name}:{mark.line + 1}" if mark else self.name
            self.mistakes.append(f"{where}: not YAML: {getattr(error, 'problem', None) or error}")
            return None
        for alias in aliases:
            self.mistakes.append(
                f"{self.name}:{alias.start_mark.line + 1}: *{alias.value}: write the value out, no aliases"
            )
        return data

    def place(self, path: Parts) -> str:
        """File and line of a part, or of the nearest one around it that was written down."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines[path]}" if path in self.lines else self.name

    def mistake(self, path: Parts, text: str) -> None:
        """Notes one."""
        self.mistakes.append(f"{self.place(path)}: {text}")

    def check(self, model: type[_M], data: object, path: Parts) -> _M | None:
        """None: it has mistakes, and they are noted."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                self.mistake((*path, *item["loc"]), self._said(model, item))
            return None

    def _plain(self, node: yaml.Node, path: Parts) -> object:
        """The node as Python data. Notes the line of every part, and keys that are there twice."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            data: dict[str, object] = {}
            for key_node, value_node in node.value:
                key, inside = str(key_node.value), (*path, str(key_node.value))
                line = key_node.start_mark.line + 1
                if key in data:
                    was = self.lines[inside]
                    self.mistakes.append(f"{self.name}:{line}: `{key}` is already on line {was}: remove one")
                    continue
                self.lines[inside] = line
                data[key] = self._plain(value_node, inside)
            return data
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        return self.scalars.construct_object(node)

    def _said(self, model: type[BaseModel], item: Any) -> str:
        """A mistake that pydantic found, in our words."""
        names = [str(part) for part in item["loc"] if isinstance(part, str) and part != "[key]"]
        name = names[-1] if names else model.__name__
        match item["type"]:
            case "missing":
                return f"`{name}` is missing: {self.hints.get(name, 'add it')}"
            case "extra_forbidden":
                return f"there is no field `{name}`: remove it, or see {self.documentation} for the right name"
            case "value_error":
                return f"`{name}`: {item['msg'].removeprefix('Value error, ')}"
            case _:
                hint = self.hints.get(name, f"see {self.documentation}")
                return f"`{name}`: {item['msg']}, not {str(item['input'])[:80]!r}; {hint}"


def _aliases(text: str) -> list[yaml.AliasToken]:
    """All of them. Raises YAMLError, also where it is nested far deeper than any file of ours: later takes long."""
    aliases: list[yaml.AliasToken] = []
    depth = 0
    for token in yaml.scan(text, _LOADER):
        if isinstance(token, yaml.AliasToken):
            aliases.append(token)
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > DEPTH_MAX:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=token.start_mark)
    return aliases
