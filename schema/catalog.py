"""The entries of `meter.catalog`: prices, tenants and budgets, as JSON, one per key.

Rows are immutable: the key of a price is its id, so compaction never loses one. A `head` entry follows
each publication and names the price-book revision up to which the entries are complete; a reader
activates a revision when it has read its head.
"""

from __future__ import annotations

import unicodedata
from datetime import date, datetime
from typing import Annotated, Final

import msgspec

from meterstream.schema.errors import RecordUnreadable

HEAD_KEY: Final = b"head"

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


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

    It holds until the next known row of the same (tenant, provider, model, unit) begins. Of two rows with
    the same `valid_from` the one with the higher revision is the one we believe. `withdrawn`: from
    `valid_from` on there is no price.
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
    rate: Annotated[str, msgspec.Meta(pattern=r"^\d{1,12}(\.\d{1,18})?$")] = "0"
    tenant: str | None = None
    """None: for every tenant that has no price of its own."""
    withdrawn: bool = False
    checked_on: date | None = None


class Tenant(msgspec.Struct, frozen=True, tag_field="kind", tag="tenant", omit_defaults=True):
    """What the pipeline must know of a tenant. A tenant without an entry has the defaults."""

    tenant: _Name
    privacy: bool = False
    """Drop `ip` and `user_agent` of admitted events, and the bodies of rejected records."""


class BudgetEntry(msgspec.Struct, frozen=True, tag_field="kind", tag="budget", omit_defaults=True):
    """The newest version of a budget; the fields are those of `meterstream.schema.budget.Budget`."""

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


class Head(msgspec.Struct, frozen=True, tag_field="kind", tag="head"):
    """Every price up to and including `revision` has been published before this entry."""

    revision: int


Entry = Price | Tenant | BudgetEntry | Head

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def encode_entry(entry: Entry) -> tuple[bytes, bytes]:
    """-> (record key, record value)."""
    match entry:
        case Price():
            key = f"price/{entry.price_id}".encode()
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
