"""Which rows of one scope are for a model: its name, its name without a date, a prefix, or a pattern. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from meterstream.schema.model_match import Match, Pattern, pattern_of, undated

ModelKey = tuple[Match, str]
"""How rows name their models."""

Group = tuple[ModelKey, ...]
"""What is for one model: nothing, one key, or several patterns, of which only one may be in force."""


class Names:
    """The names, prefixes and patterns of one scope. The first kind that fits decides, whatever its rows say."""

    def __init__(self, keys: Iterable[ModelKey]) -> None:
        by_kind: dict[Match, list[str]] = {"exact": [], "prefix": [], "pattern": []}
        for match, name in keys:
            by_kind[match].append(name)
        self._exact = frozenset(by_kind["exact"])
        self._prefixes = frozenset(by_kind["prefix"])
        self._prefix_lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)
        self._patterns = [(name, Pattern(name)) for name in sorted(by_kind["pattern"])]

    def find(self, model: str) -> Group:
        """The name itself, else its undated name, else the longest prefix, else every pattern that fits."""
        if model in self._exact:
            return (("exact", model),)
        name = undated(model)
        if name is not None and name in self._exact:
            return (("exact", name),)
        for length in self._prefix_lengths:
            if model[:length] in self._prefixes:
                return (("prefix", model[:length]),)
        if not model:
            return ()  # patterns are for models, and this call has none
        return tuple(("pattern", name) for name, pattern in self._patterns if pattern.matches(model))


def share_a_model(one: ModelKey, other: ModelKey) -> bool:
    """Whether there is a name that both stand for."""
    return pattern_of(*one).overlaps(pattern_of(*other))
