"""Event ids and the claim keys that make an event count once.

The id alone decides which claim table an event belongs to:

- UUIDv7 and ULID carry their time: key = 48 bits of that time ‖ 80-bit hash of (tenant, source, id). The
  table is partitioned by day on the key itself, so the key alone is unique.
- any other id: key = 128-bit hash of (tenant, source, id) with the top bit set, kept in generations.

The top bit tells the two apart: a 48-bit time in milliseconds has it clear until the year 6429.
Tenant and source are part of the hash, so that no tenant can claim another's id (blake2b, RFC 7693).
"""

from __future__ import annotations

import re
from datetime import datetime
from hashlib import blake2b
from os import urandom
from time import time_ns
from typing import Final

CLAIM_BYTES: Final = 16
HASHED_FROM: Final = b"\x80"
"""Claim keys from here on are hashes; those before begin with a time."""
ID_WINDOW_DAYS: Final = 45
"""Claims are kept for this long; a time-carrying id older than that is rejected."""
ID_AHEAD_MS_MAX: Final = 5 * 60 * 1000
"""A time-carrying id may be this far ahead of the broker's append time."""

_TIME_BYTES = 6
_TIMED_HASH_BYTES = CLAIM_BYTES - _TIME_BYTES
_HEX = "[0-9a-fA-F]"
_is_uuid7 = re.compile(f"{_HEX}{{8}}-{_HEX}{{4}}-7{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}").fullmatch
_CROCKFORD = {c: i for i, c in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}
_CROCKFORD |= {c.lower(): i for c, i in _CROCKFORD.items()}


def id_time_ms(event_id: str) -> int | None:
    """Milliseconds since 1970 that a UUIDv7 or ULID carries (RFC 9562 §5.7; ULID spec), else None."""
    if _is_uuid7(event_id):
        return int(event_id[:8] + event_id[9:13], 16)
    if len(event_id) == 26 and event_id[0] in "01234567":
        return _ulid_time_ms(event_id)
    return None


def _ulid_time_ms(text: str) -> int | None:
    value = 0
    for place, char in enumerate(text):
        digit = _CROCKFORD.get(char)
        if digit is None:
            return None
        if place < 10:
            value = value << 5 | digit
    return value if value < 1 << 48 else None


def claim_key(tenant: str, source: str, event_id: str, time_ms: int | None) -> bytes:
    """The 16-byte claim key; `time_ms` is what `id_time_ms(event_id)` said."""
    # NUL keeps ("a", "bc") and ("ab", "c") apart: no admitted text holds one.
    identity = f"{tenant}\0{source}\0{event_id}".encode()
    if time_ms is None:
        digest = blake2b(identity, digest_size=CLAIM_BYTES).digest()
        return bytes((digest[0] | 0x80,)) + digest[1:]
    return time_ms.to_bytes(_TIME_BYTES, "big") + blake2b(identity, digest_size=_TIMED_HASH_BYTES).digest()


def is_timed(key: bytes) -> bool:
    """True when the claim key belongs to the table that is partitioned by the id's own time."""
    return key < HASHED_FROM


def uuid7(at: datetime | None = None, random_bits: int | None = None) -> str:
    """A new UUIDv7 as text; `at` (aware) and `random_bits` (74 bits) make it repeatable."""
    if at is None:
        time_ms = time_ns() // 1_000_000
    elif at.tzinfo is None:
        raise ValueError("uuid7 needs an aware datetime")
    else:
        time_ms = int(at.timestamp() * 1000)
    bits = int.from_bytes(urandom(10), "big") if random_bits is None else random_bits
    bits &= (1 << 74) - 1
    # Text straight from the number: a UUID in between costs as much as all the rest.
    text = f"{time_ms << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & (1 << 62) - 1:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
