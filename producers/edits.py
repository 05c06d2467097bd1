"""Changes to the JSON of an event before it is sent again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from meterstream.schema.errors import UsageError

_ABSENT: Final = object()
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True)
class Edit:
    """Sets the field at `path` (names from outside in) to `value`, takes it out, or gives it the name `renamed`."""

    path: tuple[str, ...]
    value: Any = _ABSENT
    renamed: tuple[str, ...] = ()

    @property
    def takes_out(self) -> bool:
        """Whether the field goes."""
        return self.value is _ABSENT and not self.renamed

    def __str__(self) -> str:
        name = ".".join(self.path)
        if self.renamed:
            return f"{name} renamed to {'.'.join(self.renamed)}"
        return f"without {name}" if self.takes_out else f"{name} = {_encode(self.value).decode()}"


def parse_set(text: str) -> Edit:
    """`data.model=gpt-4o`, `data.usage.input_tokens=12`: JSON where it is some, else text. Raises UsageError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r}: give FIELD=VALUE, such as data.model=gpt-4o")
    try:
        return Edit(_path(name), _loads(value))
    except ValueError:
        return Edit(_path(name), value)


def parse_unset(text: str) -> Edit:
    """`data.usage.tokens`. Raises UsageError."""
    return Edit(_path(text))


def parse_rename(text: str) -> Edit:
    """`data.usage.input_token=data.usage.input_tokens`. Raises UsageError."""
    old, equals, new = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r}: give OLD=NEW, such as data.usage.input_token=data.usage.input_tokens")
    if old == new:
        raise UsageError(f"{text!r}: give two names")
    return Edit(_path(old), renamed=_path(new))


def edited(body: bytes, edits: Sequence[Edit]) -> bytes:
    """The event with the edits made; numbers stay exact, and without edits the bytes stay as they are.

    Raises UsageError where it is no JSON object, a path leads through something that is none, or a new name is taken.
    """
    if not edits:
        return body
    try:
        event = _loads(body.decode("utf-8"))
    except ValueError as error:
        raise UsageError(f"only JSON can be edited, and this is none: {error}") from error
    for edit in edits:
        _apply(event, edit)
    return _encode(event)


def _apply(event: Any, edit: Edit) -> None:
    place, name = _holder(event, edit.path, is_made=not (edit.renamed or edit.takes_out))
    if edit.renamed:
        if name not in place:
            return
        target, new = _holder(event, edit.renamed)
        if new in target:
            raise UsageError(f"both {'.'.join(edit.path)} and {'.'.join(edit.renamed)} are there: which one is meant?")
        target[new] = place.pop(name)
    elif edit.takes_out:
        place.pop(name, None)
    else:
        place[name] = edit.value


def _holder(event: Any, path: tuple[str, ...], *, is_made: bool = True) -> tuple[dict[str, Any], str]:
    """The object that holds the field, and the field's own name. `is_made`: where there is none, in the event."""
    *outer, last = path
    place = event
    for name in outer:
        if isinstance(place, dict):
            place = place.setdefault(name, {}) if is_made else place.get(name, {})
        else:
            place = None
    if not isinstance(place, dict):
        raise UsageError(f"{'.'.join(path)}: what it is in is no object")
    return place, last


def _path(name: str) -> tuple[str, ...]:
    path = tuple(name.strip().split("."))
    if not all(path):
        raise UsageError(f"{name!r} is no field such as data.model")
    return path


def _loads(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
