"""CloudEvents 1.0 over Kafka: which mode a record is in, and how its headers carry attributes.

Source: CloudEvents Kafka protocol binding 1.0.2. Structured mode: the value is the whole event.
Binary mode: the value is `data`, attributes are headers `ce_*`. Our own addition: a JSON array of
structured events, which the binding leaves undefined on Kafka.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

CONTENT_TYPE: Final = "content-type"
STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
BINARY_DATA: Final = "application/json"
ATTRIBUTE_PREFIX: Final = "ce_"
REQUIRED: Final = ("specversion", "type", "id", "source", "time", "tenant")
"""The attributes that an event cannot be without. In binary mode each of them comes once; all others are ignored, but
for `traceparent`."""

HEADERS_MAX: Final = 256
"""Of one record. Nothing of a record with more is looked at."""

Headers = Sequence[tuple[str, bytes]]

_SURROGATE: Final = re.compile("[\ud800-\udfff]")

STRUCTURED_HEADERS: Final[Headers] = ((CONTENT_TYPE, STRUCTURED.encode()),)
BATCH_HEADERS: Final[Headers] = ((CONTENT_TYPE, BATCH.encode()),)


def media_type(headers: Headers) -> str | None:
    """The record's media type in lower case without parameters; None when it has no content-type header."""
    for name, value in headers:
        if name.lower() == CONTENT_TYPE:
            return bytes(value or b"").split(b";", 1)[0].strip().lower().decode("utf-8", "replace")
    return None


def unreadable_name(headers: Headers) -> str | None:
    """The first name of a header that was not UTF-8: whoever read it put surrogates for the wrong bytes."""
    return next((name for name, _ in headers if not name.isascii() and _SURROGATE.search(name)), None)


def attributes(headers: Headers) -> list[tuple[str, bytes]]:
    """Binary mode's attributes, name without the prefix and what it holds, as often as they come."""
    return [
        (name[len(ATTRIBUTE_PREFIX) :].lower(), bytes(value or b""))
        for name, value in headers
        if name.lower().startswith(ATTRIBUTE_PREFIX)
    ]
