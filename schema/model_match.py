"""How a price row names its models: one name, a beginning of names, or a pattern. Pure; names are case-sensitive.

A pattern stands for the whole name: `*` is any run of characters, `?` one character, `[0-9]` one of a set (also
`[abc]`, and `[*]` for a star). There is nothing in it that can be matched in two ways at length, so matching takes at
most (length of the name) x (length of the pattern) steps, whatever the name.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final, Literal

Match = Literal["exact", "prefix", "pattern"]

_DATED: Final = re.compile(r"(.+)[-@](20\d\d-\d\d-\d\d|20\d{6})", re.ASCII)

_Token = frozenset[str] | None
"""One of a set of characters; the empty set: any run of them; None: any one."""

_ANY_RUN: Final[frozenset[str]] = frozenset()

WILDCARDS: Final = frozenset("*?[")
"""What stands for other characters in a pattern, and for itself elsewhere."""


def undated(name: str) -> str | None:
    """'gpt-4o-2024-08-06', 'm-20240806' or 'm@20240806' -> the name before its date; None where there is no date."""
    found = _DATED.fullmatch(name)
    if found is None:
        return None
    try:
        date.fromisoformat(found[2])
    except ValueError:
        return None
    return found[1]


class Pattern:
    """A pattern that has been read. Raises ValueError with the fix."""

    __slots__ = ("tokens",)

    def __init__(self, text: str) -> None:
        self.tokens: list[_Token] = _read(text)

    def matches(self, name: str) -> bool:
        """Whether it stands for this whole name."""
        tokens = self.tokens
        at = place = 0
        star, resume = -1, 0
        while place < len(name):
            if at < len(tokens) and tokens[at] == _ANY_RUN:
                star, resume = at, place
                at += 1
            elif at < len(tokens) and _holds(tokens[at], name[place]):
                at += 1
                place += 1
            elif star >= 0:  # the last run takes one character more; runs before it never have to
                resume += 1
                at, place = star + 1, resume
            else:
                return False
        return all(token == _ANY_RUN for token in tokens[at:])

    def overlaps(self, other: Pattern) -> bool:
        """Whether there is a name that both stand for."""
        mine, theirs = self.tokens, other.tokens
        reached = {(0, 0)}
        waiting = [(0, 0)]
        while waiting:
            i, j = waiting.pop()
            if i == len(mine) and j == len(theirs):
                return True
            for step in _steps(mine, theirs, i, j):
                if step not in reached:
                    reached.add(step)
                    waiting.append(step)
        return False


def _steps(mine: list[_Token], theirs: list[_Token], i: int, j: int) -> list[tuple[int, int]]:
    """Where two patterns can stand after both have taken the same character, or one has ended a run."""
    a_runs = i < len(mine) and mine[i] == _ANY_RUN
    b_runs = j < len(theirs) and theirs[j] == _ANY_RUN
    steps: list[tuple[int, int]] = []
    if a_runs:
        steps.append((i + 1, j))
        if j < len(theirs) and not b_runs:
            steps.append((i, j + 1))
    if b_runs:
        steps.append((i, j + 1))
        if i < len(mine) and not a_runs:
            steps.append((i + 1, j))
    if not a_runs and not b_runs and i < len(mine) and j < len(theirs) and _meet(mine[i], theirs[j]):
        steps.append((i + 1, j + 1))
    return steps


def _holds(token: _Token, character: str) -> bool:
    return token is None or character in token


def _meet(a: _Token, b: _Token) -> bool:
    return a is None or b is None or not a.isdisjoint(b)


def pattern_of(match: Match, name: str) -> Pattern:
    """What a row of this kind stands for, as a pattern; a dated name of an exact row is left aside."""
    if match == "pattern":
        return Pattern(name)
    pattern = Pattern("")
    pattern.tokens.extend(frozenset({character}) for character in name)
    if match == "prefix":
        pattern.tokens.append(_ANY_RUN)
    return pattern


def check_match(match: Match, name: str) -> str:
    """The name where it can stand with this kind of match. Raises ValueError with the fix."""
    if match == "exact":
        return name
    if not name:
        raise ValueError(f"a {match} is not empty: only an exact name may be, for what has no model")
    if match == "pattern":
        Pattern(name)
    elif set(name) & set("*?[]"):
        raise ValueError(f"{name!r} is a prefix, and `*`, `?`, `[` stand for themselves in it: write `match: pattern`")
    return name


def _read(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    place = 0
    while place < len(text):
        character = text[place]
        if character == "[":
            end = text.find("]", place + 2)
            if end < 0:
                raise ValueError(f"{text!r}: `[` has no `]`: write a set such as [0-9]")
            tokens.append(_set(text, text[place + 1 : end]))
            place = end
        elif character == "]":
            raise ValueError(f"{text!r}: `]` has no `[`: write `[]]` for the character itself")
        elif character in "(){}|\\^$+":
            raise ValueError(
                f"{text!r}: this is no regular expression: `*` is any run of characters, `?` one, [0-9] one of a set; "
                f"write `[{character}]` for the character itself"
            )
        elif character == "*":
            if tokens and tokens[-1] == _ANY_RUN:
                raise ValueError(f"{text!r}: `**` says no more than `*`: write one")
            tokens.append(_ANY_RUN)
        else:
            tokens.append(None if character == "?" else frozenset({character}))
        place += 1
    return tokens


def _set(text: str, inside: str) -> frozenset[str]:
    if inside[0] in "!^" and len(inside) > 1:
        raise ValueError(
            f"{text!r}: [{inside}]: a set names the characters that may stand there, not those that may not"
        )
    characters: set[str] = set()
    place = 0
    while place < len(inside):
        if inside[place + 1 : place + 2] == "-" and place + 2 < len(inside):
            low, high = inside[place], inside[place + 2]
            if not (low.isascii() and high.isascii() and low <= high):
                raise ValueError(
                    f"{text!r}: [{inside}]: the range {low}-{high} goes nowhere: write it as [0-9] or [a-z]"
                )
            characters.update(chr(code) for code in range(ord(low), ord(high) + 1))
            place += 3
        else:
            characters.add(inside[place])
            place += 1
    return frozenset(characters)
