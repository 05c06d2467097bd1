"""The events of one run of a stage, and what they must cost.

Without faults: all events are accepted and priced, 2 % are re-sends, 1 % come late. A rejected event costs more
than a good one, so faults would measure the share of faults.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Final

import msgspec

from meterstream.deploy.bench.options import TENANTS
from meterstream.producers.simulate import MODELS, SimulatorConfig, simulate
from meterstream.producers.simulate_totals import Rates, SimulationTotals
from meterstream.producers.simulated import Profile, SimulatedEvent, SimulatedRecord
from meterstream.schema import price_file
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.money import PICO
from meterstream.schema.topics import RAW

SPAN: Final = timedelta(hours=1)
LATE_MAX: Final = timedelta(minutes=10)
DUPLICATES: Final = 0.02
LATE: Final = 0.01


@dataclass(slots=True)
class Lot:
    """Events with a `source` of their own, by which their rows are known. `add` each record as it is sent."""

    source: str
    records: Iterator[SimulatedRecord]
    moment: datetime
    """Prices do not change within the lot; this lies in it."""
    sent: int = 0
    duplicates: int = 0
    value_bytes: int = 0
    _sums: dict[tuple[str, str, tuple[str, ...], bool], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )

    def add(self, record: SimulatedRecord) -> None:
        """One more record of one event."""
        (event,) = record.events
        is_duplicate = event.kind == "duplicate"
        self.sent += 1
        self.duplicates += is_duplicate
        self.value_bytes += len(record.value)
        used = tuple(unit for unit, quantity in event.usage.items() if quantity)
        self._sums[event.provider, event.model, used, is_duplicate].update(event.usage)

    @property
    def accepted(self) -> int:
        """Ledger rows that must come of it."""
        return self.sent - self.duplicates

    def amount_pico(self, rates: Rates, *, with_duplicates: bool) -> int:
        """What it must cost, in 1e-12: by the simulator's arithmetic, not the rater's.

        Quantities are summed before they are priced, which is exact because every rate is a whole number of 1e-12
        (`rates_in_force` sees to it), so no line is ever rounded.
        """
        totals = SimulationTotals(rates)
        amount = Fraction(0)
        for (provider, model, _, is_duplicate), usage in self._sums.items():
            if is_duplicate and not with_duplicates:
                continue
            charge = totals.charge(
                SimulatedEvent("new", "", self.source, "", self.moment, provider, model, dict(usage))
            )
            if charge is None:
                raise MeterstreamError(f"the shipped prices have no price for {provider} {model} {dict(usage)}")
            amount += charge
        return int(amount * PICO)


def make_lot(
    name: str, *, seed: int, events: int, profile: Profile, now: datetime | None = None, topic: str = RAW
) -> Lot:
    """A lot spread over the hour before `now` (aware). The name makes its ids and rows its own."""
    end = datetime.now(UTC) if now is None else now
    config = _config(name, seed, events, profile, topic, end - SPAN, end, duplicates=DUPLICATES, late=LATE)
    return Lot(config.source, simulate(config), end)


def make_live_lot(name: str, *, seed: int, rate: int, load_s: float, profile: Profile, start: datetime) -> Lot:
    """A lot whose events happen from `start` (aware) on, evenly; each event's `time` is when it is to be sent."""
    end = start + timedelta(seconds=load_s)
    config = _config(name, seed, round(rate * load_s), profile, RAW, start, end, duplicates=0, late=0)
    return Lot(config.source, simulate(config), start)


def _config(
    name: str,
    seed: int,
    events: int,
    profile: Profile,
    topic: str,
    start: datetime,
    end: datetime,
    *,
    duplicates: float,
    late: float,
) -> SimulatorConfig:
    return SimulatorConfig(
        seed=seed,
        events=events,
        start=start,
        end=end,
        tenants=TENANTS,
        topic=topic,
        source=f"bench/{name}",
        profile=profile,
        duplicates=duplicates,
        late=late,
        malformed=0,
        unknown_models=0,
        conflicts=0,
        plain_ids=0,
    )


class FlatRates(msgspec.Struct, frozen=True):
    """The rates of one model in force now, whole 1e-12 a token, for peers that price by a plain dict."""

    input: int
    output: int
    cache_read: int
    cache_write: int


def rates_in_force(now: datetime) -> tuple[Rates, dict[str, FlatRates]]:
    """Shipped prices of the simulator's models: -> (as the simulator's totals take them, model -> flat rates).

    Raises MeterstreamError when one begins within the lots' time, or is no whole number of 1e-12 a unit: the
    checks rely on both.
    """
    models = {(model.provider, model.model) for model in MODELS}
    rates: dict[tuple[str, str, str], list[tuple[datetime, str, int]]] = defaultdict(list)
    for line in price_file.shipped():
        if line.is_plain and (line.provider, line.model) in models:
            if now - SPAN - LATE_MAX < line.valid_from <= now + SPAN:
                raise MeterstreamError(f"a price changes while this runs: {line}")
            rates[line.provider, line.model, line.unit].append((line.valid_from, line.rate, line.per))
    return rates, {model: _flat(rates, provider, model, now) for provider, model in models}


def _flat(rates: Rates, provider: str, model: str, now: datetime) -> FlatRates:
    def rate(unit: str, or_else: int = 0) -> int:
        begun = [row for row in rates.get((provider, model, unit), ()) if row[0] <= now]
        if not begun:
            return or_else
        _, text, per = max(begun)
        exact = Fraction(text) * PICO / per
        if exact.denominator != 1:
            raise MeterstreamError(f"{provider} {model} {unit}: {text} for {per} is no whole number of 1e-12")
        return exact.numerator

    tokens = rate("input_tokens")
    return FlatRates(
        tokens, rate("output_tokens"), rate("cache_read_tokens", tokens), rate("cache_write_tokens", tokens)
    )
