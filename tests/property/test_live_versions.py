"""Versions of budgets that come while the fold is away, behind, or late to learn of them: which alerts must exist."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from hypothesis import given, settings

from meterstream.processors.aggregation.budgets import Rules
from meterstream.processors.aggregation.cut import cut, cut_alerts
from tests.oracle.live import AHEAD, Live, Plan
from tests.property.live_log import Log, LogMaker, Mix, budget_of, make_plans
from tests.property.test_live import Broker, new_partition, oracle_of, restarted, seeds, small_bounds

__all__ = ["small_bounds"]

MIX = Mix(sources=[(1, 0), (1, 1), (1, 2)], future=False, huge=False, corrections=0)
"""Without what is silent and what is taken back: there, when a version begins does matter."""
LONG_AGO = 0


@dataclass(frozen=True)
class Version:
    """One version of a budget, and when a running aggregator learns of it."""

    plan: Plan
    is_removed: bool
    changed: int
    known_at: int
    """Before the record at this offset is folded; whoever starts later knows it from its start on."""
    whole_from: int
    """All of every period that starts here or later is counted."""
    is_late: bool


def make_versions(random: Random, live: Live, *, are_late: bool) -> list[list[Version]]:
    """The histories of some budgets, each in order."""
    histories = []
    for plan in make_plans(random, 4):
        moments = sorted(
            random.choice(live.watermarks[1:]) + random.randint(-1, 1) for _ in range(random.randint(1, 5))
        )
        history = [Version(plan, False, LONG_AGO, 0, LONG_AGO, False)]
        for changed in moments:
            history.append(_changed(random, live, history[-1], changed, are_late=are_late))
        histories.append(history)
    return histories


def _changed(random: Random, live: Live, before: Version, changed: int, *, are_late: bool) -> Version:
    due = next((offset for offset, mark in enumerate(live.watermarks[1:]) if mark >= changed), len(live.log))
    known_at = max(before.known_at, random.choice([0, due, random.randint(0, due)]))
    is_late = are_late and random.random() < 0.5
    if is_late:
        known_at = max(known_at, min(due + random.randint(1, 6), len(live.log)))
    plan = replace(before.plan, version=before.plan.version + 1)
    dice = random.random()
    if dice < 0.2 and not before.is_removed:
        return Version(plan, True, changed, known_at, before.whole_from, known_at > due)
    whole_from = before.whole_from
    if before.is_removed or dice < 0.4:  # counting begins anew
        whole_from = max(changed, live.watermarks[known_at] if is_late else 0) + AHEAD + 1
        plan = replace(plan, model=random.choice([None, "a"]))
    amount = random.choice([3 * 10**12, 10**13, 7 * 10**13 + 1])
    percents = tuple(sorted(random.sample([1, 20, 33, 50, 80, 100, 101, 250], random.randint(1, 5))))
    return Version(
        replace(plan, amount=amount, percents=percents), False, changed, known_at, whole_from, known_at > due
    )


def rules_at(histories: list[list[Version]], offset: int) -> Rules:
    known = [version for history in histories for version in history if version.known_at <= offset]
    return Rules(
        (budget_of(version.plan).model_copy(update={"removed": version.is_removed}) for version in known),
        {(each.plan.tenant, each.plan.name, each.plan.version): each.changed for each in known},
    )


def folded_with_crashes(random: Random, log: Log, histories: list[list[Version]], *, has_zombies: bool) -> Broker:
    """What was sent, by processes that died anywhere, of a fold that is at the log's end at last."""
    broker = Broker()
    partition = new_partition()
    reached = 0
    rules = rules_at(histories, reached)
    partition.use(rules)
    while partition.next_offset < len(log):
        if partition.next_offset > reached:
            reached = partition.next_offset
            if any(version.known_at == reached for history in histories for version in history):
                rules = rules_at(histories, reached)
                broker.send(cut(partition, rules, publishes_all=random.random() < 0.5))
        log.feed(partition)
        dice = random.random()
        if dice < 0.1:
            broker.send_alerts(cut_alerts(partition))
        elif dice < 0.3:
            broker.send(cut(partition, rules, publishes_all=random.random() < 0.5))
        elif dice < 0.45:
            broker.send(cut(partition, rules, publishes_all=random.random() < 0.5), random)
            reached = max(reached, partition.next_offset)
            rules = rules_at(histories, reached)
            partition = restarted(broker.stored(random) if has_zombies else broker.newest(), rules)
    rules = rules_at(histories, len(log))
    broker.send(cut(partition, rules, publishes_all=True))
    broker.send(cut(partition, rules, publishes_all=True))
    return broker


def check_versions(broker: Broker, live: Live, history: list[Version]) -> None:
    for place, version in enumerate(history):
        plan = version.plan
        found = {
            name: {alert.data.place and (alert.data.place.position, alert.data.place.event_id) for alert in sent}
            for name, sent in broker.alerts.items()
            if (sent[0].data.budget, sent[0].data.version) == (plan.name, plan.version)
            and int(sent[0].data.period_start.timestamp()) * 1000 >= version.whole_from
        }
        if version.is_removed:
            assert not found
            continue
        until = history[place + 1].changed if place + 1 < len(history) else None
        wanted = {
            name: (start, entry)
            for name, (start, entry) in live.alerts_in_time(plan, version.changed, until).items()
            if start >= version.whole_from
        }
        late = [each for each in history[: place + 2] if each.is_late]
        if not late:
            assert found == {
                name: {entry and (entry.row.position, entry.row.event_id)} for name, (_, entry) in wanted.items()
            }
            continue
        # Of what came while nobody knew, a period that was over when the version was learned of is not told any more;
        # and the version before it went on.
        told_from = live.watermarks[max(each.known_at for each in late)]
        assert {name for name, (start, _) in wanted.items() if plan.period_of(start)[1] > told_from} <= found.keys()
        most = live.alerts_in_time(plan, version.changed, until, max(e.known_at for e in late))
        assert found.keys() <= most.keys()


@settings(max_examples=30)
@given(seeds)
def test_each_version_is_judged_by_the_events_of_its_time(seed: int) -> None:
    """Wherever it was learned of before them, whatever died, and whichever pieces of state are left."""
    random = Random(seed)
    log = Log(LogMaker(random, MIX).make())
    live = oracle_of(log)
    histories = make_versions(random, live, are_late=False)
    has_zombies = random.random() < 0.5
    broker = folded_with_crashes(random, log, histories, has_zombies=has_zombies)
    for history in histories:
        check_versions(broker, live, history)
    if not has_zombies:
        for sent in broker.alerts.values():
            assert all(alert == sent[0] for alert in sent), sent


@settings(max_examples=20)
@given(seeds)
def test_a_version_that_was_learned_of_late_lacks_no_level(seed: int) -> None:
    random = Random(seed)
    log = Log(LogMaker(random, MIX).make())
    live = oracle_of(log)
    histories = make_versions(random, live, are_late=True)
    broker = folded_with_crashes(random, log, histories, has_zombies=random.random() < 0.5)
    for history in histories:
        check_versions(broker, live, history)
