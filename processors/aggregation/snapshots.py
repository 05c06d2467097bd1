"""Live windows and budgets as the records of `usage.aggregates`, and reached levels as alerts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict

from meterstream.processors.aggregation.budgets import Counter, Reached, Spent
from meterstream.processors.aggregation.fold import Partition, Tenant
from meterstream.processors.aggregation.windows import (
    ADJUSTMENT,
    AMOUNT,
    DAY_MS,
    ERRORS,
    EVENTS,
    HOUR_MS,
    INPUT,
    OUTPUT,
    UNPRICED,
    Counts,
    ModelKey,
)
from meterstream.schema.aggregate import BudgetPeriod, BudgetState, ModelSums, Progress, Sums, Window, WindowKind
from meterstream.schema.alert import Alert, AlertData, Place, alert_id
from meterstream.schema.money import NO_CURRENCY, format_amount

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LENGTHS_MS: Final[dict[WindowKind, int]] = {"hour": HOUR_MS, "day": DAY_MS}


def moment(ms: int) -> datetime:
    """ms since 1970 -> aware UTC, exact."""
    return _EPOCH + timedelta(milliseconds=ms)


def window(partition: Partition, name: str, tenant: Tenant, kind: WindowKind, number: int) -> Window | None:
    """The window as it is at the partition's `next_offset`; None when nothing is kept of it."""
    by_model: dict[ModelKey, Counts] = {}
    for key, leaf in tenant.windows.leaves.items():
        counts = (leaf.hours if kind == "hour" else leaf.days).get(number)
        if counts is not None:
            by_model[key] = counts
    if not by_model:
        return None
    totals: dict[str, Counts] = {}
    for (_, _, currency), counts in by_model.items():
        total = totals.get(currency)
        totals[currency] = counts if total is None else [a + b for a, b in zip(total, counts, strict=True)]
    start_ms = number * _LENGTHS_MS[kind]
    floor = partition.floors.hour if kind == "hour" else partition.floors.day
    return Window(
        tenant=name,
        window=kind,
        start=moment(start_ms),
        end=moment(start_ms + _LENGTHS_MS[kind]),
        partition=partition.number,
        offset=partition.next_offset,
        settled=number < floor,
        partial=start_ms < partition.complete_from_ms,
        totals=tuple(Sums(**_counted(currency, counts)) for currency, counts in sorted(totals.items())),
        models=tuple(
            ModelSums(provider=provider, model=model, **_counted(currency, counts))
            for (provider, model, currency), counts in sorted(by_model.items())
        ),
    )


class _Counted(TypedDict):
    currency: str
    events: int
    errors: int
    unpriced_events: int
    input_tokens: int
    output_tokens: int
    amount: str | None
    adjustment_amount: str | None


def _counted(currency: str, counts: Counts) -> _Counted:
    adjustment = counts[ADJUSTMENT]
    return {
        "currency": currency,
        "events": counts[EVENTS],
        "errors": counts[ERRORS],
        "unpriced_events": counts[UNPRICED],
        "input_tokens": counts[INPUT],
        "output_tokens": counts[OUTPUT],
        "amount": None if currency == NO_CURRENCY else format_amount(counts[AMOUNT]),
        "adjustment_amount": format_amount(adjustment) if adjustment else None,
    }


def budget_state(partition: Partition, counter: Counter) -> BudgetState:
    """Where the budget stands at the partition's `next_offset`."""
    budget = counter.rule.budget
    current = counter.spent.get(counter.current.start_ms)
    previous = counter.spent.get(counter.previous.start_ms)
    spent_pico = 0 if current is None else current.spent_pico
    amount_pico = budget.amount_pico
    return BudgetState(
        tenant=budget.tenant,
        name=budget.name,
        version=counter.version,
        currency=budget.currency,
        amount=format_amount(amount_pico),
        period=budget.period,
        time_zone=budget.time_zone,
        period_start=moment(counter.current.start_ms),
        period_end=moment(counter.current.end_ms),
        spent=format_amount(spent_pico),
        remaining=format_amount(amount_pico - spent_pico),
        percent=_percent(spent_pico, amount_pico),
        thresholds=budget.thresholds,
        reached=budget.thresholds[: 0 if current is None else current.reached],
        provisional=counter.is_provisional(counter.current),
        counts_since=moment(counter.complete_from_ms) if counter.complete_from_ms else None,
        partition=partition.number,
        offset=partition.next_offset,
        **budget.scope._asdict(),
        previous=None if previous is None else _period(counter, previous),
    )


def _period(counter: Counter, spent: Spent) -> BudgetPeriod:
    period = spent.period
    return BudgetPeriod(
        start=moment(period.start_ms),
        end=moment(period.end_ms),
        spent=format_amount(spent.spent_pico),
        provisional=counter.is_provisional(period),
    )


def _percent(spent_pico: int, amount_pico: int) -> str:
    """Two places, cut towards zero: 100.00 is never shown of a budget that is not reached."""
    hundredths = abs(spent_pico) * 10_000 // amount_pico
    sign = "-" if spent_pico < 0 and hundredths else ""
    return f"{sign}{hundredths // 100}.{hundredths % 100:02d}"


def progress(partition: Partition) -> Progress:
    """Says that everything before `next_offset` is published; send it after that."""
    return Progress(partition=partition.number, offset=partition.next_offset, watermark=moment(partition.watermark_ms))


def alert(reached: Reached) -> Alert:
    """The alert of a level: a function of the log and the budget alone, so that it is the same when sent again."""
    budget, row = reached.budget, reached.row
    start = moment(reached.period.start_ms)
    return Alert(
        id=alert_id(budget.tenant, budget.name, budget.version, start, reached.percent),
        time=moment(reached.time_ms),
        tenant=budget.tenant,
        data=AlertData(
            rule="budget",
            budget=budget.name,
            version=budget.version,
            tenant=budget.tenant,
            currency=budget.currency,
            amount=format_amount(budget.amount_pico),
            percent=reached.percent,
            threshold=format_amount(reached.threshold_pico),
            spent=format_amount(reached.spent_pico),
            period=budget.period,
            time_zone=budget.time_zone,
            period_start=start,
            period_end=moment(reached.period.end_ms),
            provisional=reached.provisional,
            **budget.scope._asdict(),
            place=None
            if row is None
            else Place(
                event_id=row.event_id,
                source=row.source,
                source_id=reached.source_id,
                source_partition=reached.source_partition,
                position=row.position,
            ),
        ),
    )


def windows_of_hours(hours: Iterable[int]) -> list[tuple[WindowKind, int]]:
    """The hours and the days that they belong to."""
    hours = list(hours)
    kinds: list[tuple[WindowKind, int]] = [("hour", hour) for hour in sorted(hours)]
    return kinds + [("day", day) for day in sorted({hour // 24 for hour in hours})]
