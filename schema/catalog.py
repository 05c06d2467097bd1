"""The entries of `meter.catalog`: prices, tenants and budgets, as JSON, one per key.

Rows are immutable: the key of a price is its id, so compaction never loses one. A `head` entry follows
each publication and names the price-book revision up to which the entries are complete; a reader
activates a revision when it has read its head.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Final

import msgspec

from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.model_match import Match, check_match
from meterstream.schema.time_window import parse_time_window
from meterstream.schema.units import QUANTITY_MAX

HEAD_KEY: Final = b"head"

ALL_UNITS: Final = "*"
"""The unit of a row whose percent is for every unit."""

REPORTED_COST: Final = "reported_cost"
"""The unit of a row that says which cost is billed where the vendor reports one: see BILLED. It has no currency."""

EARLIER_DAYS: Final = 8
"""An event that is still to be counted was priced at most 7 days ago: that is what `usage.priced` holds."""
EARLIER_MAX: Final = 50
EARLIER_BYTES: Final = 262_144
"""Of the versions that come along with a budget's newest, as JSON: a quarter of what a record may have."""

BILLED: Final[Mapping[str, str]] = {"reported": "1", "computed": "0"}
"""What such a row may say -> its rate: so much of the reported cost is billed, or none and the computed one is."""

PERCENT_PATTERN: Final = r"^-?[0-9]{1,4}(\.[0-9]{1,6})?$"

DEFAULT_CONDITIONS: Final[Mapping[str, str | int]] = {
    "match": "exact",
    "service_tier": "",
    "region": "",
    "processing": "",
    "time_window": "",
    "above": 0,
    "above_unit": "input_tokens",
}
"""The fields of a price that say for which calls it is, each with the value that means all of them."""

CONDITIONS: Final = tuple(DEFAULT_CONDITIONS)

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Maybe = Annotated[str, msgspec.Meta(max_length=128)]


def check_name(name: str) -> str:
    """The name (of a provider, model or tenant; any text) where an event could hold it too.

    Raises ValueError for a control character, or bytes that were no UTF-8.
    """
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise ValueError(f"{name!r} holds {character!r}: no event is admitted with such a character, remove it")
    return name


class Price(msgspec.Struct, frozen=True, tag_field="kind", tag="price", omit_defaults=True):
    """`rate` (decimal text) units of `currency` for `per` units of `unit`, for events at or after `valid_from`.

    It holds until the next known row of the same key begins: tenant, provider, model, unit, CONDITIONS, and whether
    it has a percent. Of two rows with the same `valid_from` the one with the higher revision is the one we believe.
    A row of the unit REPORTED_COST is no rate: it says which cost is billed.
    `withdrawn`: from `valid_from` on there is no price. Which of several rows a call is charged at: docs/prices.md.
    """

    price_id: int
    revision: int
    provider: _Name
    unit: _Name
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    per: Annotated[int, msgspec.Meta(gt=0)]
    valid_from: Annotated[datetime, msgspec.Meta(tz=True)]
    known_from: Annotated[datetime, msgspec.Meta(tz=True)]
    source: str
    model: str = ""
    rate: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,12}(\.[0-9]{1,18})?$")] = "0"
    tenant: str | None = None
    """None: for every tenant that has no price of its own."""
    withdrawn: bool = False
    checked_on: date | None = None
    match: Match = "exact"
    """What `model` is: a name, a beginning of names, or a pattern (`meterstream.schema.model_match`)."""
    service_tier: _Maybe = ""
    region: _Maybe = ""
    processing: _Maybe = ""
    time_window: _Maybe = ""
    """The hours at which it holds (`meterstream.schema.time_window`)."""
    above: Annotated[int, msgspec.Meta(ge=0, le=QUANTITY_MAX)] = 0
    """Above 0: only for a call that has more of `above_unit` than this."""
    above_unit: _Name = "input_tokens"
    percent: Annotated[str, msgspec.Meta(pattern=PERCENT_PATTERN)] | None = None
    """Of a tenant's row: this many percent on the common rate (-10: a tenth less); `rate` means nothing then."""

    def __post_init__(self) -> None:
        """Raises ValueError for a pattern or window that cannot be read, so that no book holds one."""
        if self.match != "exact":
            check_match(self.match, self.model)
        if self.time_window:
            parse_time_window(self.time_window)
        if self.percent is not None and (self.tenant is None or Decimal(self.percent) < -100):
            raise ValueError("a percent is for a tenant, and -100 or more")

    @property
    def is_plain(self) -> bool:
        """Whether it is for every call of one model: what earlier versions know as a price."""
        is_rate = self.percent is None and self.unit != REPORTED_COST
        return is_rate and all(getattr(self, name) == DEFAULT_CONDITIONS[name] for name in CONDITIONS)


class ConditionalPrice(Price, frozen=True, tag_field="kind", tag="conditional_price", omit_defaults=True):
    """A price that is not plain, in the topic: an earlier version must leave it out and not take it for a plain one."""


class Tenant(msgspec.Struct, frozen=True, tag_field="kind", tag="tenant", omit_defaults=True):
    """What the pipeline must know of a tenant. A tenant without an entry has the defaults."""

    tenant: _Name
    privacy: bool = False
    """Drop `ip` and `user_agent` of admitted events, and the bodies of rejected records."""


class BudgetVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version of a budget; the fields are those of `meterstream.schema.budget.Budget`, and `changed_at`."""

    tenant: _Name
    name: _Name
    version: int
    amount: str
    currency: str
    period: str
    time_zone: str
    week_start: int
    anchor_day: int
    thresholds: tuple[int, ...]
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    provider: str | None = None
    model: str | None = None
    removed: bool = False
    changed_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """When this version was made; None: an earlier publisher did not say."""


class BudgetEntry(BudgetVersion, frozen=True, tag_field="kind", tag="budget", omit_defaults=True):
    """The newest version of a budget; compaction takes the records of those before it, so what matters comes along."""

    earlier: tuple[BudgetVersion, ...] = ()
    """The versions before it, the oldest first, as far as they were followed by the next in the last EARLIER_DAYS days;
    EARLIER_MAX at most, and EARLIER_BYTES."""


class Head(msgspec.Struct, frozen=True, tag_field="kind", tag="head"):
    """Every price up to and including `revision` has been published before this entry."""

    revision: int
    made_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """Of the revision; another database has another one under the same number. None: an earlier publisher."""


Entry = Price | ConditionalPrice | Tenant | BudgetEntry | Head

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def encode_entry(entry: Entry) -> tuple[bytes, bytes]:
    """-> (record key, record value)."""
    match entry:
        case Price():
            key = f"price/{entry.price_id}".encode()
            if not entry.is_plain:
                entry = ConditionalPrice(**msgspec.structs.asdict(entry))
        case Tenant():
            key = f"tenant/{entry.tenant}".encode()
        case BudgetEntry():
            key = f"budget/{entry.tenant}/{entry.name}".encode()
        case Head():
            key = HEAD_KEY
    return key, _encoder.encode(entry)


def decode_entry(value: bytes) -> Entry:
    """Raises RecordUnreadable."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise RecordUnreadable(f"not a catalog entry: {error}") from error
