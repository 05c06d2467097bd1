"""Expected against found: every difference in one line each, none of them tolerated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tests.oracle.model import Expected, Key, Line, Place, Sums

K = TypeVar("K")
V = TypeVar("V")

RULE_OF_REASON = {
    **dict.fromkeys(
        (
            "null_value",
            "header_name",
            "too_many_headers",
            "content_type",
            "malformed_json",
            "empty_array",
            "array_too_long",
            "nested_too_deep",
        ),
        "unreadable",
    ),
    **dict.fromkeys(
        (
            "not_an_event",
            "missing_tenant",
            "unknown_type",
            "unknown_field",
            "invalid_field",
            "invalid_quantity",
            "unknown_unit",
            "subcount_above_total",
            "control_character",
        ),
        "invalid",
    ),
    **dict.fromkeys(("too_old", "in_future", "id_too_old", "id_in_future"), "time"),
    "amount_too_large": "amount",
    "id_conflict": "conflict",
}


@dataclass
class Found:
    """What Postgres holds: plain rows, repeated ones included."""

    ledger: list[tuple[Place, Line]] = field(default_factory=list)
    duplicates: list[Place] = field(default_factory=list)
    rejected: list[tuple[Place, str]] = field(default_factory=list)
    """With the product's reason."""
    hourly: dict[Key, Sums] = field(default_factory=dict)
    daily: dict[Key, Sums] = field(default_factory=dict)


def compare(expected: Expected, found: Found) -> list[str]:
    """All differences; empty when Postgres holds exactly what it must."""
    rules = [(place, RULE_OF_REASON[reason]) for place, reason in found.rejected]
    return [
        *_repeated("ledger", (place for place, _ in found.ledger)),
        *_repeated("duplicates", found.duplicates),
        *_repeated("rejected", (place for place, _ in rules)),
        *_mappings("ledger", expected.ledger, dict(found.ledger)),
        *_mappings("duplicates", dict.fromkeys(expected.duplicates, True), dict.fromkeys(found.duplicates, True)),
        *_mappings("rejected", expected.rejected, dict(rules)),
        *_mappings("hourly", expected.hourly, found.hourly),
        *_mappings("daily", expected.daily, found.daily),
    ]


def _repeated(table: str, places: Iterable[Place]) -> list[str]:
    return [f"{table}: {place} is there {count} times" for place, count in Counter(places).items() if count > 1]


def _mappings(table: str, expected: Mapping[K, V], found: Mapping[K, V]) -> list[str]:
    missing = [f"{table}: {key} is missing: {expected[key]}" for key in expected.keys() - found.keys()]
    extra = [f"{table}: {key} should not be there: {found[key]}" for key in found.keys() - expected.keys()]
    other = [
        f"{table}: {key} should be {expected[key]}, is {found[key]}"
        for key in expected.keys() & found.keys()
        if expected[key] != found[key]
    ]
    return sorted(missing) + sorted(extra) + sorted(other)
