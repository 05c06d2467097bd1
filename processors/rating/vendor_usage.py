"""An event that brings its vendor's own body instead of quantities: what the body says takes their place. Pure."""

from __future__ import annotations

from meterstream.processors.rating import vendors
from meterstream.processors.rating.vendors import Unreadable
from meterstream.schema.event import KEY_BYTES_MAX, Event, key_bytes

STATED_MODEL = "stated_model"
UNMETERED_REASON = "unmetered_reason"
NOTES = (STATED_MODEL, UNMETERED_REASON)
"""What the ledger's `attributes` say of such an event beside its own fields."""


def read_body(event: Event) -> dict[str, str]:
    """Fills an admitted event from its `vendor_usage`; returns notes, one for each thing worth one.

    The quantities and the model come from the body: it names the model that answered, which is the one that is
    paid. Where the event stated another one, that is noted. What else the event says itself stays. A body that
    cannot be read leaves the event as it is, without quantities, and is noted with the reason.
    """
    data = event.data
    stated = data.model
    try:
        reading = vendors.read(bytes(data.vendor_usage))
        data.model = reading.model or stated
        if key_bytes(event.tenant, data) > KEY_BYTES_MAX:
            raise Unreadable(f"with the model {reading.model[:40]!r} the event's key is too long")
    except Unreadable as error:
        data.model = stated
        return {UNMETERED_REASON: str(error)}
    data.usage = reading.usage
    data.service_tier = data.service_tier or reading.service_tier
    if data.reported_amount is None:
        data.reported_amount, data.reported_currency = reading.reported_amount, reading.reported_currency
    return {STATED_MODEL: stated} if stated not in ("", data.model) else {}
