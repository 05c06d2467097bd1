"""How the list's rules for model names become names and prefixes of a price file. Pure.

The list asks its models in turn, and each has a rule of its own; a price file has whole names and beginnings. A test
compares what both find.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from genai_prices import types

from meterstream.schema.model_match import Match

BEDROCK_GEOGRAPHIES: Final = ("us", "eu", "apac", "us-gov", "au", "ca", "jp", "in", "global")
"""What a Bedrock id may begin with: where the call may be computed."""

_DATED: Final = re.compile(r"\^(?P<name>.+?)(-|\[-@\])\\d\{(8\}|4\}-\\d\{2\}-\\d\{2\})\$")
"""As text, a rule for a name with its date."""
_NUMBERED: Final = re.compile(r"\^(?P<beginning>.+-)\\d")
_NO_SPEECH: Final = "^(?!.*-[tT][tT][sS](?:$|-))"
"""Models that speak have rules of their own, whose beginnings are longer."""
_PLACED: Final = re.compile(rf"({'|'.join(BEDROCK_GEOGRAPHIES)})\.")
_MADE: Final = re.compile(r"[a-z]+\.")
_MAKERS: Final = {"claude": "anthropic", "titan": "amazon"}
"""Family -> what stands before it in a Bedrock id, where a rule leaves that out."""

Name = tuple[Match, str]


class Untranslatable(Exception):
    """A rule that is neither a name nor a beginning of names."""


def names_of(provider_id: str, rule: types.MatchLogic) -> list[Name]:
    """Without repetitions, in the order of the rule. Raises Untranslatable."""
    return list(dict.fromkeys(_names(provider_id, rule)))


def _names(provider_id: str, rule: types.MatchLogic) -> Iterator[Name]:
    match rule:
        case types.ClauseEquals(equals=name):
            yield "exact", name
        case types.ClauseStartsWith(starts_with=beginning):
            yield "prefix", beginning
        case types.ClauseEndsWith(ends_with=end):
            yield "exact", end.removeprefix("/")
        case types.ClauseContains(contains=part):
            yield from _containing(provider_id, part)
        case types.ClauseRegex(regex=regex):
            yield _of_regex(regex)
        case types.ClauseAnd(and_=[types.ClauseStartsWith() as beginnings, types.ClauseRegex(regex=regex)]) if (
            regex == _NO_SPEECH
        ):
            yield from _names(provider_id, beginnings)
        case types.ClauseOr(or_=rules):
            for inner in rules:
                yield from _names(provider_id, inner)
        case _:
            raise Untranslatable(f"{rule}")


def _containing(provider_id: str, part: str) -> Iterator[Name]:
    yield "prefix", part
    if provider_id == "aws" and not _PLACED.match(part):
        if not _MADE.match(part):
            maker = _MAKERS.get(part.partition("-")[0])
            if maker is None:
                raise Untranslatable(f"who makes {part}?")
            part = f"{maker}.{part}"
            yield "prefix", part
        yield from (("prefix", f"{geography}.{part}") for geography in BEDROCK_GEOGRAPHIES)


def _of_regex(regex: str) -> Name:
    if dated := _DATED.fullmatch(regex):
        return "exact", dated["name"].replace("\\.", ".")  # a name is found without its date too
    if numbered := _NUMBERED.fullmatch(regex):
        return "pattern", numbered["beginning"].replace("\\.", ".") + "[0-9]*"
    raise Untranslatable(regex)
