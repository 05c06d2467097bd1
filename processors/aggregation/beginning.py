"""What a new budget, or one that counts something else now, takes over of the past: what the day windows tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meterstream.processors.aggregation.budgets import Counter, Rule, counted_from
from meterstream.processors.aggregation.windows import AMOUNT, DAY_MS, OTHER, Leaf, ModelKey


def begin(
    rule: Rule, leaves: Mapping[ModelKey, Leaf], watermark_ms: int, *, held_from_ms: int, complete_from_ms: int
) -> Counter:
    """A new counter; what was used of its period is counted in, where that can be told.

    `leaves` are its tenant's. They hold every event of days that start at `held_from_ms` or later, 0: all that ever
    were. The log holds everything of periods that start at `complete_from_ms` or later.
    """
    own = {key: leaf for key, leaf in leaves.items() if _may_match(rule, key)}
    if held_from_ms == 0 and not own:
        return Counter(rule, 0, watermark_ms)
    counter = Counter(rule, max(counted_from(watermark_ms), complete_from_ms), watermark_ms)
    start_ms, end_ms = counter.current
    if start_ms < held_from_ms:
        return counter
    days = [each for leaf in own.values() for each in leaf.days.items() if each[0] >= start_ms // DAY_MS]
    if not days or (start_ms % DAY_MS == end_ms % DAY_MS == 0 and _is_told(rule, own)):
        counter.complete_from_ms = start_ms
        for day, counts in days:
            counter.add(day * DAY_MS, sum(counts[AMOUNT:]))
    return counter


def _may_match(rule: Rule, key: ModelKey) -> bool:
    """False when nothing of the leaf can be in the rule's scope."""
    provider, model, currency = key
    scope = rule.budget.scope
    return currency == rule.currency and (
        provider == OTHER or (scope.provider in (None, provider) and scope.model in (None, model))
    )


def _is_told(rule: Rule, keys: Iterable[ModelKey]) -> bool:
    """True when all of these leaves is in the rule's scope."""
    scope = rule.budget.scope
    if (scope.project_id, scope.user_id, scope.api_key_id) != (None, None, None):
        return False
    return (scope.provider, scope.model) == (None, None) or not any(provider == OTHER for provider, _, _ in keys)
