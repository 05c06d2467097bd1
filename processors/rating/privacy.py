"""Whose is a rejected record, when it may be a tenant's in privacy mode? Pure; used for rejected records only.

What could be read as an event says its tenant. Of anything else we look for the tenant wherever a publisher puts it,
and rather withhold a body too many than keep one too many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from meterstream.schema.cloudevents import ATTRIBUTE_PREFIX

_TENANT_HEADER: Final = f"{ATTRIBUTE_PREFIX}tenant"
# Works where the JSON is cut off, too large to be parsed, or an array of many; each byte is looked at once or twice.
_TENANTS: Final = re.compile(rb'"tenant"\s*:\s*("(?:[^"\\]|\\.){0,1024}")', re.DOTALL)


def private_tenant(
    private: AbstractSet[str], value: bytes, key: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> str | None:
    """The first tenant in `private` that a record without a readable event names; None: it names none of them."""
    return next((name for name in _named(value, key, headers) if name in private), None)


def _named(value: bytes, key: bytes | None, headers: Sequence[tuple[str, bytes]]) -> Iterator[str]:
    for match in _TENANTS.finditer(value):
        try:
            yield msgspec.json.decode(match[1], type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # not a text that a tenant's name could be
    for name, content in headers:
        if name.lower() == _TENANT_HEADER:
            yield (content or b"").decode("utf-8", "replace")
    yield (key or b"").decode("utf-8", "replace")
