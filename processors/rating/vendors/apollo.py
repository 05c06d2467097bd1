"""Apollo: credits, where the answer says how many; the bulk of its answers says nothing about usage."""

from __future__ import annotations

from meterstream.processors.rating.vendors.reading import Json, Quantity, Reading, canonical, count


def read(body: Json) -> Reading | None:
    """None: no answer of Apollo that says what it cost."""
    consumed = count(body, "credits_consumed")
    if consumed is None:
        return None
    # A request that found nobody costs no credit; it is still a request.
    quantities: dict[str, Quantity | None] = {"credits": consumed} if consumed else {"requests": 1}
    return Reading(canonical(quantities))
