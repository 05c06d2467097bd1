"""Event + append time -> admitted with its claim, or the reason why not. Pure; no clock of ours.

Age limits compare the event's time with the broker's append time, so that a replay decides the same.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest as _hash

from meterstream.processors.rating.decode import check_characters
from meterstream.schema.errors import EventRejected
from meterstream.schema.event import (
    KEY_BYTES_MAX,
    NAME_LENGTH_MAX,
    VENDOR_USAGE_BYTES_MAX,
    VENDOR_USAGE_DEPTH_MAX,
    Event,
    key_bytes,
    key_too_long,
)
from meterstream.schema.ids import ID_AHEAD_MS_MAX, ID_WINDOW_DAYS, claim_key, id_time_ms
from meterstream.schema.names import is_name
from meterstream.schema.units import UNITS, misfit
from meterstream.schema.wire_event import AGE_MAX, blank_text, is_nested_too_deep

BACKFILL_AGE_MAX: Final = timedelta(days=3653)
"""Ten years: as long as books are kept, and 120 months, as many leaves as the ledger is to have. Without a bound
one file with a date in each month of two centuries would make thousands of leaves."""
AHEAD_MAX: Final = timedelta(minutes=5)
_DAY_MS: Final = 24 * 3600 * 1000
_MAY_HAVE_LONG_KEYS: Final = KEY_BYTES_MAX - 4 * NAME_LENGTH_MAX
"""Fewer bytes cannot hold a key that is too long; in binary mode the tenant is not among them."""
_TWO_TO_63: Final = 1 << 63
_TWO_TO_64: Final = 1 << 64

_is_reported_amount = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,12})?").fullmatch
_is_currency = re.compile(r"[A-Z]{3}").fullmatch
_decode_json = msgspec.json.Decoder().decode
_encode_body = msgspec.msgpack.Encoder(order="deterministic").encode


class AgeLimits(NamedTuple):
    """What one append time admits. Made once per append time: a broker stamps whole batches alike."""

    appended_at: datetime
    appended_ms: int
    oldest: datetime
    newest: datetime
    id_oldest_ms: int
    id_newest_ms: int


Claim = tuple[bytes, int]
"""Key and body: what makes an admitted event count once, see `meterstream.schema.ids` and `pack.Row`."""


def append_time(appended_ms: int) -> datetime:
    """Milliseconds since 1970 -> aware UTC, exactly."""
    return datetime.fromtimestamp(appended_ms // 1000, UTC) + timedelta(milliseconds=appended_ms % 1000)


def age_limits(appended_ms: int, *, is_backfill: bool) -> AgeLimits:
    """Limits for records that the broker appended at `appended_ms` (ms since 1970, UTC)."""
    appended_at = append_time(appended_ms)
    return AgeLimits(
        appended_at=appended_at,
        appended_ms=appended_ms,
        oldest=appended_at - (BACKFILL_AGE_MAX if is_backfill else AGE_MAX),
        newest=appended_at + AHEAD_MAX,
        id_oldest_ms=appended_ms - ID_WINDOW_DAYS * _DAY_MS,
        id_newest_ms=appended_ms + ID_AHEAD_MS_MAX,
    )


def admit(event: Event, original: bytes, limits: AgeLimits) -> Claim:
    """Checks what the decoder cannot. `original` are the bytes of the event. Raises EventRejected."""
    if b"\\" in original:  # in binary mode the attributes' characters have been checked before
        check_characters(event)
    if not limits.oldest <= event.time <= limits.newest:
        raise _wrong_age(event, limits)
    if (blank := blank_text(event)) is not None:
        raise EventRejected("missing_tenant" if blank == "tenant" else "invalid_field", f"{blank} holds only blanks")
    data = event.data
    if not data.operation and not data.endpoint:
        raise EventRejected("invalid_field", "data gives neither an operation nor an endpoint")
    usage = data.usage
    if len(usage) != 2 or "input_tokens" not in usage or "output_tokens" not in usage:
        _check_usage(usage)  # the commonest case has nothing to check
    if len(original) > _MAY_HAVE_LONG_KEYS:
        _check_key_bytes(event)
    if data.vendor_usage:
        _check_vendor_usage(bytes(data.vendor_usage))
    if data.reported_amount is not None or data.reported_currency:
        _check_reported(data.reported_amount, data.reported_currency)
    time_ms = id_time_ms(event.id)
    if time_ms is not None and not limits.id_oldest_ms <= time_ms <= limits.id_newest_ms:
        raise _wrong_id_time(time_ms, limits)
    body = _hash(_encode_body((event.time, data)))
    return claim_key(event.tenant, event.source, event.id, time_ms), body - _TWO_TO_64 if body >= _TWO_TO_63 else body


def _wrong_age(event: Event, limits: AgeLimits) -> EventRejected:
    found = f"time {event.time.isoformat()}, received {limits.appended_at.isoformat()}: "
    if event.time > limits.newest:
        return EventRejected("in_future", f"{found}admitted up to {limits.newest.isoformat()}; set the clock right")
    window = limits.appended_at - limits.oldest
    way_out = "what is older than that is not metered" if window > AGE_MAX else "send older events to usage.backfill"
    return EventRejected("too_old", f"{found}admitted from {limits.oldest.isoformat()}; {way_out}")


def _check_key_bytes(event: Event) -> None:
    """A database's index takes only so many bytes, and an event that it refuses would stop all others."""
    size = key_bytes(event.tenant, event.data)
    if size > KEY_BYTES_MAX:
        raise EventRejected("invalid_field", key_too_long(size))


def _wrong_id_time(time_ms: int, limits: AgeLimits) -> EventRejected:
    if time_ms < limits.id_oldest_ms:
        return EventRejected(
            "id_too_old",
            f"the id was made at {time_ms} ms since 1970, more than {ID_WINDOW_DAYS} days before it was received; "
            "give an imported event an id without a time, made from its source",
        )
    return EventRejected("id_in_future", f"the id was made at {time_ms} ms since 1970, which is still to come")


def _check_usage(usage: dict[str, int | Decimal]) -> None:
    try:
        reason = misfit(usage)
    except KeyError as unknown:
        name = str(unknown.args[0])
        known = f"units: {', '.join(sorted(UNITS))}"
        private = None if is_name(name) else f"usage names what is no unit; {known}"
        raise EventRejected("unknown_unit", f"usage names {name[:80]!r}; {known}", private) from None
    if reason is not None:
        raise EventRejected("subcount_above_total", reason)


def _check_vendor_usage(raw: bytes) -> None:
    if len(raw) > VENDOR_USAGE_BYTES_MAX:
        raise EventRejected("invalid_field", f"vendor_usage has {len(raw)} bytes, at most {VENDOR_USAGE_BYTES_MAX}")
    try:
        raw.decode("utf-8")
        value = _decode_json(raw)
    except RecursionError as error:
        raise EventRejected("nested_too_deep", "vendor_usage is nested too deep") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventRejected("invalid_field", f"vendor_usage: {error}") from error
    if not isinstance(value, dict):
        raise EventRejected("invalid_field", "vendor_usage is not an object")
    if is_nested_too_deep(raw):
        raise EventRejected("nested_too_deep", f"vendor_usage is nested deeper than {VENDOR_USAGE_DEPTH_MAX}")


def _check_reported(amount: str | None, currency: str) -> None:
    if amount is None or not _is_reported_amount(amount):
        raise EventRejected("invalid_field", 'reported_amount is no plain decimal text such as "0.0123"')
    if not _is_currency(currency):
        raise EventRejected("invalid_field", "reported_currency is no ISO 4217 code such as USD")
