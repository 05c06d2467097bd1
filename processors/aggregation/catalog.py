"""The entries of `meter.catalog` that the aggregator uses: budgets."""

from __future__ import annotations

from meterstream.processors.aggregation.budgets import Rules
from meterstream.schema.budget import Budget, checked
from meterstream.schema.catalog import BudgetEntry, Entry
from meterstream.schema.coverage import milliseconds


class BudgetCatalog:
    """The newest version of each budget that was read."""

    def __init__(self) -> None:
        self._budgets: dict[tuple[str, str], Budget] = {}
        self._changed_ms: dict[tuple[str, str], int] = {}

    def apply(self, entry: Entry) -> bool:
        """Takes one entry; True when the rules changed. Raises BudgetInvalid: what was known stays."""
        if not isinstance(entry, BudgetEntry):
            return False
        budget = checked(**{field: getattr(entry, field) for field in Budget.model_fields})
        key = budget.tenant, budget.name
        known = self._budgets.get(key)
        if known is not None and known.version >= budget.version:
            return False
        self._budgets[key] = budget
        if entry.changed_at is not None:
            self._changed_ms[key] = milliseconds(entry.changed_at)
        return True

    def rules(self) -> Rules:
        """Every budget that is not removed, ready to count."""
        return Rules(self._budgets.values(), self._changed_ms)
