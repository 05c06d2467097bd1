"""The budgets of the benchmark: what they are, and how they reach the aggregator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from meterstream.schema.catalog import BudgetEntry, encode_entry
from meterstream.schema.money import PICO, format_amount
from meterstream.schema.topics import CATALOG

AMOUNT_PICO: Final = PICO // 2
THRESHOLDS: Final = (1, 10, 50, 80, 100)
"""Of every tenant's budget: a few events reach the first, and only the busiest tenants the last."""


@dataclass(frozen=True)
class BenchBudget:
    """A monthly budget, UTC, in USD. `project_id` None: of the whole tenant."""

    tenant: str
    name: str
    amount_pico: int
    thresholds: tuple[int, ...]
    project_id: str | None = None

    def reached(self, spent_pico: int) -> set[int]:
        """The percents that were reached when so much is spent, and nothing was ever taken back."""
        return {percent for percent in self.thresholds if spent_pico * 100 >= self.amount_pico * percent}

    def entry(self) -> BudgetEntry:
        """For the catalog."""
        return BudgetEntry(
            tenant=self.tenant,
            name=self.name,
            version=1,
            amount=format_amount(self.amount_pico),
            currency="USD",
            period="month",
            time_zone="UTC",
            week_start=1,
            anchor_day=1,
            thresholds=self.thresholds,
            project_id=self.project_id,
        )


async def publish(client_options: Mapping[str, Any], budgets: Iterable[BenchBudget]) -> None:
    """To `meter.catalog`. Raises aiokafka's errors."""
    async with AIOKafkaProducer(**client_options, enable_idempotence=True) as producer:
        for budget in budgets:
            key, value = encode_entry(budget.entry())
            await producer.send(CATALOG, value, key=key)
        await producer.flush()
