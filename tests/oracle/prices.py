"""What an event costs, in fractions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from tests.oracle.rules import PARENT, Usage

PICO = 10**12


@dataclass(frozen=True)
class PriceRow:
    """`rate` units of `currency` for `per` units of `unit`, from `valid_from` on."""

    tenant: str | None
    provider: str
    model: str
    unit: str
    currency: str
    rate: Fraction
    per: int
    valid_from: datetime
    revision: int
    withdrawn: bool = False


@dataclass(frozen=True)
class Charge:
    """`amount` is None where a unit that was used has no price."""

    currency: str
    amount: Fraction | None


class Prices:
    """Price rows, asked one unit at a time: plain search, nothing compiled."""

    def __init__(self, rows: Iterable[PriceRow]) -> None:
        self._rows: dict[tuple[str | None, str, str, str], list[PriceRow]] = {}
        for row in rows:
            self._rows.setdefault((row.tenant, row.provider, row.model, row.unit), []).append(row)

    def in_force(self, usage: Usage, unit: str) -> PriceRow | None:
        """The row for this unit at the event's time: the tenant's own if there is one, else everybody's."""
        provider, model = usage.data["provider"], usage.model
        own = self._newest(self._rows.get((usage.tenant, provider, model, unit), []), usage.occurred_at)
        return own or self._newest(self._rows.get((None, provider, model, unit), []), usage.occurred_at)

    @staticmethod
    def _newest(rows: list[PriceRow], at: datetime) -> PriceRow | None:
        begun = [row for row in rows if row.valid_from <= at]
        if not begun:
            return None
        row = max(begun, key=lambda row: (row.valid_from, row.revision))
        return None if row.withdrawn else row

    def charge(self, usage: Usage) -> Charge:
        """Every unit of a quantity is on exactly one line: that of its nearest priced unit upwards."""
        used = {unit: quantity for unit, quantity in usage.quantities.items() if quantity > 0}
        if not usage.is_metered:
            return Charge("XXX", None)
        if not usage.quantities:
            used = {"requests": Fraction(1)}  # a call that counted nothing is still a call
        priced = {unit: row for unit in PARENT if (row := self.in_force(usage, unit)) is not None}
        currencies = {row.currency for row in priced.values()}
        has_gap = any(not set(_upwards(unit)) & set(priced) for unit in used)
        if len(currencies) != 1 or has_gap:
            return Charge("XXX", None)
        lines = {unit: quantity for unit, quantity in used.items() if unit in priced}
        for unit in lines:
            above = next((total for total in _upwards(unit)[1:] if total in priced), None)
            if above is not None:
                lines[above] -= used[unit]
        total = sum((_round(quantity * priced[u].rate / priced[u].per) for u, quantity in lines.items()), Fraction(0))
        return Charge(currencies.pop(), total)


def _upwards(unit: str) -> list[str]:
    chain = [unit]
    while (parent := PARENT[chain[-1]]) is not None:
        chain.append(parent)
    return chain


def _round(amount: Fraction) -> Fraction:
    """To 1e-12, half to even: `round` of a Fraction does just that."""
    return Fraction(round(amount * PICO), PICO)
