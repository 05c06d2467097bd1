"""The entries of `meter.catalog` that the aggregator uses: budgets."""

from __future__ import annotations

from meterstream.processors.aggregation.budgets import Rules
from meterstream.schema.budget import Budget, checked
from meterstream.schema.catalog import BudgetEntry, Entry
from meterstream.schema.coverage import milliseconds


class BudgetCatalog:
    """The versions of each budget that came with the newest that was read."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], list[tuple[Budget, int]]] = {}
        """By (tenant, name), the oldest first, each with the ms since 1970 at which it was made; 0: nobody says."""

    def apply(self, entry: Entry) -> bool:
        """Takes one entry; True when the rules changed. Raises BudgetInvalid: what was known stays."""
        if not isinstance(entry, BudgetEntry):
            return False
        versions = [
            (
                checked(**{field: getattr(each, field) for field in Budget.model_fields}),
                0 if each.changed_at is None else milliseconds(each.changed_at),
            )
            for each in (*entry.earlier, entry)
        ]
        known = self._versions.get((entry.tenant, entry.name))
        if known is not None and (known[-1][0].version, len(known)) >= (entry.version, len(versions)):
            return False  # the same version may come again with more of those before it
        self._versions[entry.tenant, entry.name] = versions
        return True

    def rules(self) -> Rules:
        """Every budget with its versions, ready to count."""
        every = [version for versions in self._versions.values() for version in versions]
        made = {(budget.tenant, budget.name, budget.version): made_ms for budget, made_ms in every}
        return Rules((budget for budget, _ in every), made)
