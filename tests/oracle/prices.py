"""What an event costs, in fractions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from fractions import Fraction
from zoneinfo import ZoneInfo

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
    match: str = "exact"
    service_tier: str = ""
    region: str = ""
    processing: str = ""
    window: tuple[tuple[int, ...], int, int, str] | None = None
    """Weekdays (0: Monday) on which it opens, the minute at which it does, for how many minutes, and the zone."""
    above: int = 0
    above_unit: str = "input_tokens"
    percent: Fraction | None = None

    @property
    def condition(self) -> tuple[object, ...]:
        """For which calls of its models."""
        return self.service_tier, self.region, self.processing, self.window, self.above, self.above_unit

    def holds_for(self, usage: Usage) -> bool:
        """Whether the call is one of those."""
        return (
            self.service_tier in ("", _tier(usage))
            and self.region in ("", usage.data.get("region", ""))
            and self.processing in ("", usage.data.get("tags", {}).get("processing", ""))
            and (self.window is None or _is_open(self.window, usage.occurred_at))
            and (self.above == 0 or usage.quantities.get(self.above_unit, Fraction(0)) > self.above)
        )


@dataclass(frozen=True)
class Charge:
    """`amount` is None where a unit that was used has no price."""

    currency: str
    amount: Fraction | None


class Prices:
    """Price rows, asked one unit at a time: plain search, nothing compiled."""

    def __init__(self, rows: Iterable[PriceRow]) -> None:
        self._rows = list(rows)
        self._found: dict[tuple[str | None, str, str, bool], list[tuple[tuple[int, int], PriceRow]]] = {}

    def _for_model(self, tenant: str | None, usage: Usage, is_percent: bool) -> list[tuple[tuple[int, int], PriceRow]]:
        """All rows that fit the model, with how near their names are."""
        key = tenant, usage.data["provider"], usage.model, is_percent
        if key not in self._found:
            self._found[key] = [
                (nearness, row)
                for row in self._rows
                if (row.tenant, row.provider, row.percent is not None) == (tenant, key[1], is_percent)
                if (nearness := _nearness(row, usage.model)) is not None
            ]
        return self._found[key]

    def _in_force(self, tenant: str | None, usage: Usage, is_percent: bool = False) -> list[PriceRow]:
        """Of what has begun: of the nearest kind of name that fits, of each unit and condition, the newest."""
        fitting = self._for_model(tenant, usage, is_percent)
        begun = [(nearness, row) for nearness, row in fitting if row.valid_from <= usage.occurred_at]
        nearest = min((nearness for nearness, _ in begun), default=None)
        rows = [row for nearness, row in begun if nearness == nearest]
        newest: dict[tuple[object, ...], PriceRow] = {}
        for row in sorted(rows, key=lambda row: (row.valid_from, row.revision)):
            newest[row.model, row.unit, row.condition] = row
        return [row for row in newest.values() if not row.withdrawn]

    def in_force(self, usage: Usage, unit: str) -> PriceRow | None:
        """The row for this unit of this call: the tenant's own if there is one, else everybody's with its percent."""
        for tenant in (usage.tenant, None):
            row = _nearest([r for r in self._in_force(tenant, usage) if r.unit == unit and r.holds_for(usage)])
            if row is not None and tenant is None and self._has_unknown_tier(usage):
                continue
            if row is None:
                continue
            percents = [row for row in self._in_force(usage.tenant, usage, True) if row.holds_for(usage)]
            percent = _nearest([row for row in percents if row.unit == unit]) or _nearest(
                [row for row in percents if row.unit == "*"]
            )
            if tenant is None and percent is not None and percent.percent is not None:
                return replace(row, rate=row.rate * (100 + percent.percent) / 100)
            return row
        return None

    def _has_unknown_tier(self, usage: Usage) -> bool:
        """The call's tier has a price of its own somewhere, which no row for this buyer names."""
        tier = _tier(usage)
        of_buyer = ((usage.tenant, False), (usage.tenant, True), (None, False))
        named = {
            row.service_tier for tenant, is_percent in of_buyer for row in self._in_force(tenant, usage, is_percent)
        }
        return tier != "standard" and tier not in named

    def _has_two_answers(self, usage: Usage) -> bool:
        """Several patterns at once: nobody knows which one was meant."""
        return any(
            len({row.model for row in self._in_force(tenant, usage, is_percent)}) > 1
            for tenant, is_percent in ((usage.tenant, False), (usage.tenant, True), (None, False))
        )

    def charge(self, usage: Usage) -> Charge:
        """Every unit of a quantity is on exactly one line: that of its nearest priced unit upwards."""
        used = {unit: quantity for unit, quantity in usage.quantities.items() if quantity > 0}
        if not usage.is_metered or self._has_two_answers(usage):
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


def _tier(usage: Usage) -> str:
    stated = usage.data.get("service_tier", "").lower()
    if stated == "flex" and usage.data["provider"] == "groq":
        return "standard"
    return "standard" if stated in ("", "auto", "default", "on_demand") else stated


def _nearness(row: PriceRow, model: str) -> tuple[int, int] | None:
    """The smaller, the nearer; None: the row is for other models."""
    if row.match == "exact":
        if row.model == model:
            return 0, 0
        return (
            (1, 0)
            if any(_is_date(model, len(row.model), form) for form in ("%Y-%m-%d", "%Y%m%d"))
            and (model.startswith(row.model))
            else None
        )
    if row.match == "prefix":
        return (2, -len(row.model)) if model.startswith(row.model) else None
    return (3, 0) if model and fnmatchcase(model, row.model) else None


def _is_date(model: str, place: int, form: str) -> bool:
    if model[place : place + 1] not in ("-", "@") or len(model) - place - 1 != (10 if "-" in form else 8):
        return False
    try:
        datetime.strptime(model[place + 1 :], form)  # noqa: DTZ007 - only whether it is one
    except ValueError:
        return False
    return True


def _is_open(window: tuple[tuple[int, ...], int, int, str], at: datetime) -> bool:
    """Minute by minute of the week, in the zone's own time."""
    days, opens, minutes, zone = window
    local = at.astimezone(ZoneInfo(zone))
    week = 7 * 24 * 60
    now = (local.weekday() * 24 + local.hour) * 60 + local.minute
    return any(now == (day * 24 * 60 + opens + minute) % week for day in days for minute in range(minutes))


def _nearest(rows: list[PriceRow]) -> PriceRow | None:
    """What names the tier, else the region, else the processing, else hours; then the highest threshold."""
    named = ("service_tier", "region", "processing", "window")
    return max(
        rows, key=lambda row: ([bool(getattr(row, name)) for name in named], row.above, row.revision), default=None
    )


def _upwards(unit: str) -> list[str]:
    chain = [unit]
    while (parent := PARENT[chain[-1]]) is not None:
        chain.append(parent)
    return chain


def _round(amount: Fraction) -> Fraction:
    """To 1e-12, half to even: `round` of a Fraction does just that."""
    return Fraction(round(amount * PICO), PICO)
