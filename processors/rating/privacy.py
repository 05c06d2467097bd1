"""Whose is a rejected record, when it may be a tenant's in privacy mode? Pure; used for rejected records only.

What could be read as an event says its tenant. Of anything else we look for the tenant wherever a publisher puts it,
and rather withhold a body too many than keep one too many: what does not say for sure whose it is may be anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from meterstream.schema.cloudevents import ATTRIBUTE_PREFIX

_TENANT_HEADER: Final = f"{ATTRIBUTE_PREFIX}tenant"
_NAME: Final = "".join(rf"(?:{letter}|\\u00(?i:{ord(letter):02x}))" for letter in "tenant").encode()
# Works where the JSON is cut off, too large to be parsed, or an array of many; each byte is looked at once or twice.
_TENANTS: Final = re.compile(rb'"' + _NAME + rb'"\s*:\s*("(?:[^"\\]|\\.){0,1024}")?', re.DOTALL)
_BLANKS_AND_BOM: Final = b" \t\r\n\xef\xbb\xbf"


def private_tenant(
    private: AbstractSet[str], value: bytes, key: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> str | None:
    """The first tenant in `private` that a record without a readable event names; None: it names none of them."""
    named = (*_in_bytes(value), *_in_headers(headers), (key or b"").decode("utf-8", "replace"))
    return next((name for name in named if name in private), None)


def is_told(value: bytes, headers: Sequence[tuple[str, bytes]]) -> bool:
    """Whether a record without a readable event says for sure whose it is: one event, that names tenants and no other.

    A key does not: it may be anything. Nor do texts in another encoding, which hold NUL, nor an array, of which events
    may be missing.
    """
    if b"\0" in value or value.lstrip(_BLANKS_AND_BOM)[:1] == b"[":
        return False
    names = [*_in_bytes(value), *_in_headers(headers)]
    return bool(names) and None not in names


def _in_bytes(value: bytes) -> Iterator[str | None]:
    """None: there is something that nobody's name could be."""
    for match in _TENANTS.finditer(value):
        try:
            yield msgspec.json.decode(match[1] or b"", type=str) or None
        except (msgspec.DecodeError, UnicodeDecodeError):
            yield None


def _in_headers(headers: Sequence[tuple[str, bytes]]) -> Iterator[str | None]:
    for name, content in headers:
        if name.lower() == _TENANT_HEADER:
            try:
                yield (content or b"").decode() or None
            except UnicodeDecodeError:
                yield None
