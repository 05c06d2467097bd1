"""Rejected records: the reasons, and the record of `usage.rejected`.

A rejected record keeps the original bytes (cut above a bound, then with length and digest), the position
and a reason from `REASONS`, so that it can be read, mended and replayed. Where its tenant is in privacy mode the
bytes are withheld: the position says where the record is in its topic as long as that keeps it. An `id_conflict`
is found behind the rater: it keeps figures as JSON instead, how much was used and what it would have cost.

Key and headers belong to the whole record: of several events rejected from one array only the first, the one with the
lowest position, keeps them. Events of one record share source, partition and the offset in their position
(`position >> 20`).
"""

from __future__ import annotations

import base64
import re
from datetime import datetime
from hashlib import sha256
from typing import Final

import msgspec

from meterstream.schema.cloudevents import ATTRIBUTE_PREFIX, CONTENT_TYPE, HEADERS_MAX, REQUIRED
from meterstream.schema.errors import RecordUnreadable

PAYLOAD_BYTES_MAX: Final = 64 * 1024
KEY_BYTES_MAX: Final = 1024
HEADERS_BYTES_MAX: Final = 4096
DETAIL_LENGTH_MAX: Final = 500

REASONS: Final[dict[str, str]] = {
    "null_value": "the record has no value",
    "record_too_large": "the record's value, decompressed, is larger than any record of events",
    "unreadable_batch": "the batch that holds the record cannot be decompressed, or not within 32 MiB, or taken apart; "
    "its first rejected record keeps the bytes of the batch",
    "too_many_headers": "the record has more headers than any record of events",
    "header_name": "the name of a header of the record is not UTF-8",
    "content_type": "the content-type header names something other than a CloudEvent in JSON",
    "malformed_json": "the value is not JSON: truncated, invalid UTF-8, a lone surrogate, NaN",
    "nested_too_deep": "arrays or objects are nested deeper than any event is",
    "not_an_event": "the value is JSON, but no CloudEvent: not an object, or required attributes are missing",
    "missing_tenant": "the event does not say whose usage it is, or with blanks only",
    "unknown_type": "the event's type is not one that this version meters",
    "unknown_field": "data has a field that the contract does not know; use tags for the rest",
    "invalid_field": "a field has the wrong type, is too long or out of bounds",
    "invalid_quantity": "a quantity is negative, no number, a boolean, a string or beyond the bound",
    "unknown_unit": "usage names a unit that does not exist",
    "subcount_above_total": "a sub-count is above the total that includes it",
    "control_character": "a text holds NUL, or an identifier holds a control character",
    "too_old": "the event's time lies more than 35 days before the broker received it, in usage.backfill ten years",
    "in_future": "the event's time lies more than 5 minutes after the broker received it",
    "id_too_old": "the time in the event's id lies before the window in which ids are remembered",
    "id_in_future": "the time in the event's id lies after the broker received it",
    "empty_array": "the value is an array without events",
    "array_too_long": "the array has more events than one record may hold",
    "amount_too_large": "the charge would be above a million units of currency",
    "internal_error": "a fault of the rater kept it from deciding, and the event may be good: replay it once that is "
    "mended",
    "id_conflict": "the same (tenant, source, id) came before with another body; the first stays",
}
"""reason -> what it means. The reasons are part of the contract: one is never renamed."""


class Rejected(msgspec.Struct, omit_defaults=True, frozen=True):
    """The JSON of one record of `usage.rejected`, and of one row of `meter.rejected`."""

    reason: str
    detail: str
    topic: str
    source_id: int
    partition: int
    position: int
    appended_at: datetime
    """The broker's append time of the original record."""
    value: str
    """Original bytes of the event (of the whole record where it cannot be taken apart), base64; empty: withheld."""
    value_length: int
    value_sha256: str
    tenant: str | None = None
    """Where the event said one."""
    event_id: str | None = None
    key: str | None = None
    """Original key, base64, cut to `KEY_BYTES_MAX`; with the first rejected event of a record only, and of one withheld
    only where it is the tenant's name."""
    headers: tuple[tuple[str, str], ...] = ()
    """Original headers, values base64, as many as fit in `HEADERS_BYTES_MAX`, those that an event is made of first; of
    one withheld none but these; with the first rejected event of a record only."""

    @property
    def is_truncated(self) -> bool:
        """True when `value` holds only the beginning of the original bytes."""
        return self.value_length > PAYLOAD_BYTES_MAX and not self.is_withheld

    @property
    def is_withheld(self) -> bool:
        """True when there were bytes and none is kept, for the privacy of the tenant."""
        return self.value_length > 0 and not self.value


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Rejected)


def reject(
    *,
    reason: str,
    detail: str,
    topic: str,
    source_id: int,
    partition: int,
    position: int,
    appended_at: datetime,
    value: bytes,
    key: bytes | None = None,
    headers: tuple[tuple[str, bytes], ...] = (),
    tenant: str | None = None,
    event_id: str | None = None,
    is_withheld: bool = False,
) -> Rejected:
    """Makes the record, every part cut to its bound.

    `is_withheld`: keeps length and digest of `value`, not its bytes, only the headers with attributes of the event, and
    the key only where it is the name of the tenant.
    """
    assert reason in REASONS, reason
    if is_withheld:
        headers = tuple(header for header in headers if _is_attribute(header[0].lower()))
        # It may be anything: an address, a user.
        key = key if tenant is not None and key == tenant.encode("utf-8", "replace") else None
    return Rejected(
        reason=reason,
        detail=_printable(detail),
        topic=topic,
        source_id=source_id,
        partition=partition,
        position=position,
        appended_at=appended_at,
        value="" if is_withheld else _base64(value[:PAYLOAD_BYTES_MAX]),
        value_length=len(value),
        value_sha256=sha256(value).hexdigest(),
        tenant=None if tenant is None else _identifier(tenant),
        event_id=None if event_id is None else _identifier(event_id),
        key=None if key is None else _base64(key[:KEY_BYTES_MAX]),
        headers=_bounded_headers(headers),
    )


def encode_rejected(rejected: Rejected) -> bytes:
    """-> JSON."""
    return _encoder.encode(rejected)


def decode_rejected(value: bytes) -> Rejected:
    """Raises RecordUnreadable."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise RecordUnreadable(f"not a rejected record: {error}") from error


def _is_attribute(header: str) -> bool:
    return header == CONTENT_TYPE or (
        header.startswith(ATTRIBUTE_PREFIX) and header.removeprefix(ATTRIBUTE_PREFIX) in REQUIRED
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _printable(text: str) -> str:
    """Bounded, one line, nothing that a terminal or a database would choke on."""
    return "".join(c if c.isprintable() else "?" for c in text[:DETAIL_LENGTH_MAX])


def _identifier(text: str) -> str:
    """Bounded, as people look for it: whole names in any script, with `?` for what no database or terminal takes."""
    return _CONTROL.sub("?", text[:DETAIL_LENGTH_MAX])


def _bounded_headers(headers: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, str], ...]:
    kept: list[tuple[str, str]] = []
    left = HEADERS_BYTES_MAX
    for name, value in sorted(headers[:HEADERS_MAX], key=lambda header: not _is_attribute(header[0].lower())):
        size = len(name) + len(value or b"")
        if size <= left:
            left -= size
            kept.append((_printable(name), _base64(value or b"")))
    return tuple(kept)
