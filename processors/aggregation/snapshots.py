"""Live windows and budgets as the records of `usage.aggregates`, and reached levels as alerts. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from meterstream.processors.aggregation.budgets import Counter, Reached, Spent, counted_since
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


@lru_cache(maxsize=1024)
def moment(ms: int) -> datetime:
    """ms since 1970 -> aware UTC, exact."""
    return _EPOCH + timedelta(milliseconds=ms)


def window(partition: Partition, name: str, tenant: Tenant, kind: WindowKind, number: int) -> Window | None:
    """The window as it is at the partition's `next_offset`; None when nothing is kept of it."""
    is_hour = kind == "hour"
    by_model: list[tuple[ModelKey, Counts]] = []
    for key, leaf in tenant.windows.leaves.items():
        counts = (leaf.hours if is_hour else leaf.days).get(number)
        if counts is not None:
            by_model.append((key, counts))
    if not by_model:
        return None
    by_model.sort()
    by_currency: dict[str, list[Counts]] = {}
    for (_, _, currency), counts in by_model:
        by_currency.setdefault(currency, []).append(counts)
    start_ms = number * _LENGTHS_MS[kind]
    floor = partition.floors.hour if is_hour else partition.floors.day
    return Window(
        tenant=name,
        window=kind,
        start=moment(start_ms),
        end=moment(start_ms + _LENGTHS_MS[kind]),
        partition=partition.number,
        offset=partition.next_offset,
        settled=number < floor,
        partial=partition.may_lack(number, _LENGTHS_MS[kind]),
        totals=tuple(
            _sums(currency, list(map(sum, zip(*counts, strict=True))))
            for currency, counts in sorted(by_currency.items())
        ),
        models=tuple([_model_sums(key, counts) for key, counts in by_model]),
    )


def _sums(currency: str, counts: Counts) -> Sums:
    return Sums(
        currency=currency,
        events=counts[EVENTS],
        errors=counts[ERRORS],
        unpriced_events=counts[UNPRICED],
        input_tokens=counts[INPUT],
        output_tokens=counts[OUTPUT],
        amount=_amount(currency, counts),
        adjustment_amount=_adjustment(counts),
    )


def _model_sums(key: ModelKey, counts: Counts) -> ModelSums:
    # Written out, and not made of `_sums`: there is one for every model of every window that is published.
    provider, model, currency = key
    return ModelSums(
        provider=provider,
        model=model,
        currency=currency,
        events=counts[EVENTS],
        errors=counts[ERRORS],
        unpriced_events=counts[UNPRICED],
        input_tokens=counts[INPUT],
        output_tokens=counts[OUTPUT],
        amount=_amount(currency, counts),
        adjustment_amount=_adjustment(counts),
    )


def _amount(currency: str, counts: Counts) -> str | None:
    return None if currency == NO_CURRENCY else format_amount(counts[AMOUNT])


def _adjustment(counts: Counts) -> str | None:
    return format_amount(counts[ADJUSTMENT]) if counts[ADJUSTMENT] else None


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
        counts_since=moment(counted_since(counter.complete_from_ms)) if counter.complete_from_ms else None,
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
