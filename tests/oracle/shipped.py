"""Price files and what they charge, in fractions: read and computed apart from the product and from `prices.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from tests.oracle.rules import PARENT

DATED = re.compile(r"[-@](20\d\d-\d\d-\d\d|20\d{6})$")
WEEK = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


@dataclass(frozen=True)
class Rate:
    """`each` None: withdrawn. `terms`: tier, region, processing, hours, threshold and what it counts."""

    unit: str
    each: Fraction | None
    begins: datetime
    terms: tuple[str, str, str, str, int, str]

    def fits(self, at: datetime, tier: str, usage: Mapping[str, Fraction], place: str) -> bool:
        """For a call in this region, if any, and of no processing."""
        its_tier, region, processing, hours, above, counted = self.terms
        in_hours = not hours or any(low <= at < high for low, high in openings(hours, at))
        return its_tier in ("", tier) and region in ("", place) and not processing and in_hours and (
            not above or usage.get(counted, Fraction(0)) > above
        )  # fmt: skip


def openings(hours: str, near: datetime) -> list[tuple[datetime, datetime]]:
    """When a window opens and closes, on the days around a moment, in UTC."""
    *days, clock, zone = hours.split()
    opens, closes = (timedelta(hours=int(c[:2]), minutes=int(c[3:])) for c in clock.split("-"))
    first = near.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    found = []
    for day in (first + timedelta(days=shift) for shift in range(-8, 9)):
        if not days or any(_between(WEEK[day.weekday()], part) for part in days[0].split(",")):
            ends = day + closes + timedelta(days=closes <= opens)
            found.append(tuple(t.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for t in (day + opens, ends)))
    return found  # type: ignore[return-value]  # two each


def _between(day: str, part: str) -> bool:
    first, _, last = part.partition("-")
    return (WEEK.index(day) - WEEK.index(first)) % 7 <= (WEEK.index(last or first) - WEEK.index(first)) % 7


def rates_by_name(path: Path) -> dict[tuple[str, str], list[Rate]]:
    """(how the name is meant, name) -> its rates, in the order of the file."""
    file: dict[str, Any] = yaml.load(path.read_text("utf-8"), yaml.BaseLoader)  # every scalar is text
    found: dict[tuple[str, str], list[Rate]] = {}
    for model in file["models"]:
        for name in model["names"]:
            rates = found.setdefault((model.get("match", "exact"), name), [])
            for block in model["prices"]:
                begins = datetime.fromisoformat(block["valid_from"])
                begins = begins if begins.tzinfo else begins.replace(tzinfo=UTC)
                terms = (*(block.get(name, "") for name in ("service_tier", "region", "processing", "time_window")),)
                terms += (int(block.get("above", 0)), block.get("above_unit", "input_tokens"))
                for unit, said in block["rates"].items():
                    said = said if isinstance(said, dict) else {"rate": said}
                    per = int(said.get("per", file["per"]))
                    each = None if said["rate"] == "withdrawn" else Fraction(said["rate"]) / per
                    rates.append(Rate(unit, each, begins.astimezone(UTC), terms))
    return found


def nearness(match: str, name: str, model: str) -> tuple[int, int] | None:
    """The smaller, the nearer the name of a price is to a model; None: it is for others."""
    if match == "prefix":
        return (2, -len(name)) if model.startswith(name) else None
    if match == "pattern":
        return (3, 0) if model and fnmatchcase(model, name) else None
    if name == model:
        return 0, 0
    return (1, 0) if DATED.sub("", model) == name else None


def rungs(rates: Mapping[tuple[str, str], list[Rate]], model: str) -> list[list[Rate]]:
    """The rates of each name that is for a model, the nearest first."""
    found = [(near, its) for (match, name), its in rates.items() if (near := nearness(match, name, model)) is not None]
    return [its for _, its in sorted(found, key=lambda one: one[0])]


def begun(rungs: Iterable[list[Rate]], at: datetime) -> list[Rate]:
    """Those of the nearest name that has begun: the others do not count."""
    return next((rates for rates in rungs if any(rate.begins <= at for rate in rates)), [])


def charged(
    rates: Iterable[Rate], at: datetime, tier: str, usage: Mapping[str, Fraction], place: str = ""
) -> Fraction | None:
    """The amount, each line rounded to 1e-12 half to even; None where something used has no price."""
    newest: dict[tuple[str, tuple[object, ...]], Rate] = {}
    for rate in sorted((rate for rate in rates if rate.begins <= at), key=lambda rate: rate.begins):
        newest[rate.unit, rate.terms] = rate
    tiers = {rate.terms[0] for rate in newest.values() if rate.each is not None}
    if tier not in ("standard", *tiers):
        return None  # it has a price, and nobody has said which
    fitting = [rate for rate in newest.values() if rate.each is not None and rate.fits(at, tier, usage, place)]
    price: dict[str, Fraction] = {}
    for rate in sorted(fitting, key=lambda rate: (*map(bool, rate.terms[:4]), rate.terms[4])):
        price[rate.unit] = rate.each or Fraction(0)
    lines: dict[str, Fraction] = {}
    for unit, quantity in usage.items():
        own = quantity - sum(part for name, part in usage.items() if PARENT[name] == unit)
        payer: str | None = unit
        while payer is not None and payer not in price:
            payer = PARENT[payer]
        if payer is None and quantity:
            return None
        if payer is not None:
            lines[payer] = lines.get(payer, Fraction(0)) + own
    amount = sum((Fraction(round(lines[unit] * price[unit] * 10**12), 10**12) for unit in lines), Fraction(0))
    return amount if newest and price else None
