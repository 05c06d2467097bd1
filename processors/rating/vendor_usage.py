"""An event that brings its vendor's own body instead of quantities: what the body says takes their place. Pure."""

from __future__ import annotations

import re
from typing import Final

from meterstream.processors.rating import vendors
from meterstream.processors.rating.vendors import Unreadable
from meterstream.schema.event import KEY_BYTES_MAX, Data, Event, key_bytes
from meterstream.schema.providers import provider_of

STATED_MODEL: Final = "stated_model"
STATED_PROVIDER: Final = "stated_provider"
UNMETERED_REASON: Final = "unmetered_reason"
NOTES: Final = (STATED_MODEL, STATED_PROVIDER, UNMETERED_REASON)
"""What the ledger's `attributes` say of such an event beside its own fields."""

_BEDROCK: Final = "aws"
_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:bedrock:(?P<region>[a-z0-9-]*):[0-9]*:(?P<kind>[a-z-]+)/(?P<model>[^/]+)", re.ASCII
)
_NAMES_A_MODEL: Final = frozenset({"foundation-model", "inference-profile"})
"""Kinds of ARNs that end with the id of a model; the others end with a name of one's own."""


def rename_provider(data: Data) -> dict[str, str] | None:
    """Gives the provider the name under which its prices are kept; returns a note, where that is another one."""
    stated = data.provider
    data.provider = provider_of(stated)
    return None if data.provider == stated else {STATED_PROVIDER: stated}


def read_body(event: Event) -> dict[str, str]:
    """Fills an admitted event from its `vendor_usage`; returns notes, one for each thing worth one.

    The quantities and the model come from the body: it names the model that answered, which is the one that is
    paid. At Bedrock that name lacks the geography on which the price depends: there the id that the call was made with
    stays, if it is that model's. Where the event stated another one, that is noted. What else the event says itself
    stays. A body that cannot be read leaves the event as it is, without quantities, and is noted with the reason.
    """
    data = event.data
    stated = data.model
    try:
        reading = vendors.read(bytes(data.vendor_usage))
        data.model = reading.model or stated
        if data.provider == _BEDROCK:
            _keep_geography(data, stated, reading.model)
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


def _keep_geography(data: Data, stated: str, answered: str) -> None:
    """`us.anthropic.claude-sonnet-4-5-20250929-v1:0`, of which the body names the middle; or an ARN that ends so."""
    arn = _ARN.fullmatch(stated)
    called = stated
    if arn is not None:
        data.region = data.region or arn["region"]
        called = arn["model"] if arn["kind"] in _NAMES_A_MODEL else ""
    if called and answered in called:
        data.model = called
