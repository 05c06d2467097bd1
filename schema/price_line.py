"""One line of a price book, and for which calls it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final, Protocol

from meterstream.schema.catalog import CONDITIONS
from meterstream.schema.model_match import Match


@dataclass(frozen=True, slots=True)
class PriceLine:
    """`rate` (plain decimal text) units of `currency` for `per` units of `unit`, from `valid_from` (aware UTC) on.

    `tenant` None: for every tenant that has no price of its own. `withdrawn`: from then on there is no price;
    the rate is "0" and means nothing. `checked_on`: the day on which a person or a tool compared it with `source`.
    """

    provider: str
    model: str
    unit: str
    rate: str
    per: int
    currency: str
    valid_from: datetime
    source: str
    checked_on: date | None = None
    tenant: str | None = None
    withdrawn: bool = False
    match: Match = "exact"
    service_tier: str = ""
    region: str = ""
    processing: str = ""
    time_window: str = ""
    above: int = 0
    above_unit: str = "input_tokens"
    percent: str | None = None
    place: str = field(default="", compare=False)
    """File and line that say it, for messages."""

    @property
    def key(self) -> tuple[object, ...]:
        """What there may be only one of in one set of files."""
        return price_key(self)

    @property
    def is_plain(self) -> bool:
        """Whether it is for every call of one model."""
        return self.percent is None and not condition_text(self)

    def __str__(self) -> str:
        whose = f" for tenant {self.tenant}" if self.tenant else ""
        when = f" ({condition})" if (condition := condition_text(self)) else ""
        return f"{self.provider} {self.model} {self.unit}{when}{whose} from {self.valid_from:%Y-%m-%dT%H:%M:%SZ}"


class _Conditional(Protocol):
    """What a price line, a catalog entry and a row of the database have in common."""

    @property
    def match(self) -> Match: ...
    @property
    def service_tier(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def processing(self) -> str: ...
    @property
    def time_window(self) -> str: ...
    @property
    def above(self) -> int: ...
    @property
    def above_unit(self) -> str: ...


KEY_FIELDS: Final = ("provider", "model", "unit", "tenant", *CONDITIONS)


def price_key(price: object) -> tuple[object, ...]:
    """What makes two prices (lines or catalog entries) the same one, believed anew: their key and beginning."""
    is_percent = getattr(price, "percent") is not None  # noqa: B009 - as the other fields
    return *(getattr(price, name) for name in KEY_FIELDS), is_percent, getattr(price, "valid_from")  # noqa: B009


def condition_text(price: _Conditional, *, with_match: bool = True) -> str:
    """For which calls a price is, for people: 'batch, above 200,000 input_tokens'; '' for all calls of the model.

    `with_match`: with how its name is meant, where it is no exact one.
    """
    parts = [
        price.match if with_match and price.match != "exact" else "",
        price.service_tier,
        price.region and f"region {price.region}",
        price.processing and f"processing {price.processing}",
        price.time_window,
        f"above {price.above:,} {price.above_unit}" if price.above else "",
    ]
    return ", ".join(part for part in parts if part)
