"""Which versions of a budget are counted, and for which events. Pure.

A version is for the events that were appended from its making up to that of the next one. When it is learned of is
another matter: the aggregator may be away or behind, and the log joins source partitions that are rated at their own
pace, so events from before a change may come long after whoever folds them knows of it. Hence a version begins where
the fold stands when it is learned of, with the sums so far; what of the past it judges without naming an event is
`Counter.reach`'s. And one that is over goes on beside it, with sums of its own, for events appended before its end.
So the alerts do not depend on where in the log a version was taken, as long as that was before its first event.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final

from meterstream.processors.aggregation.budgets import Counter, Rule
from meterstream.processors.aggregation.windows import DAY_MS, MINUTE_MS
from meterstream.schema.catalog import EARLIER_MAX

KEPT_MS: Final = 7 * DAY_MS
"""How far the watermark may be ahead of an event that a version is still asked for which was over at the watermark."""

LEARNED_MS: Final = 10 * MINUTE_MS
"""Whoever runs knows of a version long before the watermark is so far behind it."""


def news(
    versions: Sequence[Rule], counters: Mapping[str, Counter], followed: Sequence[Counter], watermark_ms: int
) -> Sequence[Rule]:
    """Those of a budget's versions, the oldest first, that are to be taken now. The rest is its tenant's."""
    newest = versions[-1]
    name = newest.budget.name
    held = counters.get(name)
    if held is not None:
        known = held.version
    else:
        known = max((each.next_version for each in followed if each.rule.budget.name == name), default=0)
    if known == newest.budget.version:
        return ()
    begin = 0
    for place, rule in enumerate(versions, 1):
        is_old = rule is not newest and (
            rule.budget.version <= known or versions[place].changed_ms + KEPT_MS <= watermark_ms
        )
        # An earlier version of ours remembered nothing of what was removed: what was before that may have been counted.
        is_gone = known == 0 and rule.budget.removed and rule.changed_ms + LEARNED_MS <= watermark_ms
        if is_old or is_gone:
            begin = place
    while held is None and begin < len(versions) and versions[begin].budget.removed:
        begin += 1
    return versions[begin:]


def end_by(
    rule: Rule, counters: MutableMapping[str, Counter], followed: list[Counter], watermark_ms: int
) -> Counter | None:
    """Ends the version that the rule follows; returns its counter, which goes on among the `followed`."""
    name = rule.budget.name
    counter = counters.pop(name, None)
    # Of a version that nobody knows any more only the sums are known, and no levels.
    if counter is None or counter.version != counter.rule.budget.version:
        return counter
    if rule.changed_ms + KEPT_MS > watermark_ms:
        counter.until_ms, counter.next_version = rule.changed_ms, rule.budget.version
        own = [each for each in followed if each.rule.budget.name == name]
        if len(own) >= EARLIER_MAX:
            followed.remove(own[0])
        followed.append(counter)
    return counter
