"""A price that changes in the middle of a simulation: of a model that no other run has; no real price is touched.

Pure. What is simulated, what the price book must say and what the totals are computed with, from one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from meterstream.producers.simulate import Model
from meterstream.producers.simulate_totals import CURRENCY, Rates
from meterstream.schema.price_line import PriceLine

PROVIDER: Final = "simulator"
PER: Final = 1_000_000
RATES: Final = {"input_tokens": ("0.37", "0.2123456789"), "output_tokens": ("2.9", "3.1000000007")}
"""Unit -> (rate before, rate after): one falls, one rises, and both want rounding."""

_SINCE_EVER: Final = datetime(2000, 1, 1, tzinfo=UTC)
_WEIGHT: Final = 12
"""About a tenth of the calls."""


@dataclass(frozen=True)
class PriceChange:
    """`run` names the run, as part of the model's name; `at` (aware): from then on the new rates hold."""

    run: str
    at: datetime

    @classmethod
    def in_the_middle(cls, run: str, start: datetime, end: datetime) -> PriceChange:
        """To the millisecond, as events are."""
        middle = start + (end - start) / 2
        return cls(run, middle - timedelta(microseconds=middle.microsecond % 1000))

    @property
    def model(self) -> Model:
        """The model, as it is called."""
        return Model(PROVIDER, f"price-change-{self.run}", "chat", _WEIGHT)

    def lines(self) -> list[PriceLine]:
        """What the price book must say before the first event comes."""
        return [
            PriceLine(PROVIDER, self.model.model, unit, rate, PER, CURRENCY, begins, source="meterstream simulate")
            for unit, rates in RATES.items()
            for begins, rate in zip((_SINCE_EVER, self.at), rates, strict=True)
        ]

    def rates(self) -> Rates:
        """The same for the totals."""
        return {
            (PROVIDER, self.model.model, unit): [(_SINCE_EVER, before, PER), (self.at, after, PER)]
            for unit, (before, after) in RATES.items()
        }
