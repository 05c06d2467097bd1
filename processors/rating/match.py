"""Which rows of one scope are for a model: its name, its name without a date, a prefix, or a pattern. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meterstream.schema.model_match import Match, Pattern, pattern_of, undated

ModelKey = tuple[Match, str]
"""How rows name their models."""

Group = tuple[ModelKey, ...]
"""What is for one model in one way: one key, or several patterns, of which only one may be in force."""

Chain = tuple[Group, ...]
"""All that is for one model, the nearest first."""


class Names:
    """The names, prefixes and patterns of one scope."""

    def __init__(self, keys: Iterable[ModelKey]) -> None:
        by_kind: dict[Match, list[str]] = {"exact": [], "prefix": [], "pattern": []}
        for match, name in keys:
            by_kind[match].append(name)
        self._exact = frozenset(by_kind["exact"])
        self._prefixes = frozenset(by_kind["prefix"])
        self._prefix_lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)
        self._patterns = [(name, Pattern(name)) for name in sorted(by_kind["pattern"])]

    def find(self, model: str) -> Chain:
        """The name itself, its undated name, every prefix from the longest on, and the patterns that fit."""
        groups: list[Group] = []
        for name in (model, undated(model)):
            if name is not None and name in self._exact:
                groups.append((("exact", name),))
        groups += self._prefixes_of(model)
        patterns: Group = tuple(
            ("pattern", name) for name, pattern in self._patterns if model and pattern.matches(model)
        )
        return (*groups, patterns) if patterns else tuple(groups)  # patterns are for models, not for calls without one

    def _prefixes_of(self, name: str) -> Iterator[Group]:
        for length in self._prefix_lengths:
            if name[:length] in self._prefixes:
                yield (("prefix", name[:length]),)

    def wider(self, key: ModelKey) -> list[Chain]:
        """What else is for the models of a name: of an exact one in one chain, of a prefix in one for each pattern."""
        match, name = key
        if match == "exact":
            return [tuple(group for group in self.find(name) if group != (key,))]
        if match == "pattern":
            return []  # there is nothing wider, and two patterns for one model are refused
        prefixes = tuple(group for group in self._prefixes_of(name) if group != (key,))
        patterns: list[ModelKey] = [("pattern", pattern) for pattern, _ in self._patterns]
        sharing = [pattern for pattern in patterns if share_a_model(key, pattern)]
        return [(*prefixes, (pattern,)) for pattern in sharing] or [prefixes]


def share_a_model(one: ModelKey, other: ModelKey) -> bool:
    """Whether there is a name that both stand for."""
    return pattern_of(*one).overlaps(pattern_of(*other))
