"""What a simulation must cost: exact totals by an arithmetic of its own.

Fractions only, and no code shared with the pipeline: where the two agree, both are right or both read the
contract wrongly in the same way. One rounding, half-even at 1e-12, per charge line; one currency.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Final

from meterstream.producers.simulated import SimulatedEvent, SimulatedRecord
from meterstream.schema import price_file
from meterstream.schema.money import PICO, format_amount
from meterstream.schema.units import ancestors

Rates = Mapping[tuple[str, str, str], Sequence[tuple[datetime, str, int]]]
"""(provider, model, unit) -> [(valid_from, rate as decimal text, per), ...]."""

CURRENCY: Final = "USD"
"""Of all shipped prices of the models that are simulated."""

_PLACES: Final = 10**12


def shipped_rates() -> Rates:
    """What one plain call costs at the prices that come with this version. Blocks for the read."""
    rates: defaultdict[tuple[str, str, str], list[tuple[datetime, str, int]]] = defaultdict(list)
    for line in price_file.shipped():
        # What is simulated says nothing of tiers but the standard one, and no call is above a threshold.
        if line.is_plain and line.currency == CURRENCY:
            rates[line.provider, line.model, line.unit].append((line.valid_from, line.rate, line.per))
    return rates


@dataclass(slots=True)
class SimulationTotals:
    """Add the records in the order in which they were sent."""

    rates: Rates
    sent: int = 0
    accepted: int = 0
    """Rows that the ledger must have, unpriced ones included."""
    duplicates: int = 0
    unpriced: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """reason -> events."""
    amount: Fraction = Fraction(0)
    by_tenant: defaultdict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    by_model: defaultdict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    by_hour: defaultdict[tuple[str, datetime], Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    """(tenant, beginning of the UTC hour) -> amount."""
    events_by_hour: Counter[tuple[str, datetime]] = field(default_factory=Counter)
    _dated: dict[tuple[str, str, str], list[tuple[datetime, Fraction]]] = field(init=False)
    """The newest first."""

    def __post_init__(self) -> None:
        """Reads the rates once."""
        self._dated = {
            key: sorted(((begins, Fraction(rate) / per) for begins, rate, per in rows), reverse=True)
            for key, rows in self.rates.items()
        }

    @property
    def amount_text(self) -> str:
        """All charges together as plain decimal text, exact."""
        return format_amount(int(self.amount * PICO))

    def add(self, record: SimulatedRecord) -> None:
        """One more record."""
        for event in record.events:
            self._add_event(event)

    def _add_event(self, event: SimulatedEvent) -> None:
        self.sent += 1
        if event.reason:
            self.rejected[event.reason] += 1
            return
        if event.kind == "duplicate":
            self.duplicates += 1
            return
        self.accepted += 1
        amount = self.charge(event)
        if amount is None:
            self.unpriced += 1
            amount = Fraction(0)
        hour = (event.tenant, event.time.replace(minute=0, second=0, microsecond=0))
        self.amount += amount
        self.by_tenant[event.tenant] += amount
        self.by_model[event.model] += amount
        self.by_hour[hour] += amount
        self.events_by_hour[hour] += 1

    def charge(self, event: SimulatedEvent) -> Fraction | None:
        """The charge of one event; None when a unit that was used has no price at that time.

        A sub-count comes with the totals that include it, as the simulators make it.
        """
        used = {unit: quantity for unit, quantity in event.usage.items() if quantity}
        lines: dict[str, int] = {}
        for unit, quantity in used.items():
            payers = [payer for payer in (unit, *ancestors(unit)) if self._rate(event, payer) is not None]
            if not payers:
                return None
            if payers[0] == unit:
                lines[unit] = lines.get(unit, 0) + quantity
                payers = payers[1:]
                if payers:
                    # The payer's total includes this quantity, which has just been charged for.
                    lines[payers[0]] = lines.get(payers[0], 0) - quantity
        rated = ((quantity, self._rate(event, unit)) for unit, quantity in lines.items())
        return sum((_line(quantity, rate) for quantity, rate in rated if rate is not None), Fraction(0))

    def _rate(self, event: SimulatedEvent, unit: str) -> Fraction | None:
        rows = self._dated.get((event.provider, event.model, unit), ())
        return next((rate for begins, rate in rows if begins <= event.time), None)


def _line(quantity: int, rate: Fraction) -> Fraction:
    # round() of a Fraction goes to the even neighbour on a tie.
    return Fraction(round(quantity * rate * _PLACES), _PLACES)
