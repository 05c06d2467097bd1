"""An event that brings its vendor's own body instead of quantities: what the body says takes their place. Pure."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from meterstream.processors.rating import vendors
from meterstream.processors.rating.tiers import STANDARD, tier_of
from meterstream.processors.rating.vendors import Reading, Unreadable
from meterstream.schema.event import KEY_BYTES_MAX, Data, Event, key_bytes
from meterstream.schema.providers import provider_of
from meterstream.schema.vendor_body import usage_of

STATED_MODEL: Final = "stated_model"
STATED_PROVIDER: Final = "stated_provider"
STATED_SERVICE_TIER: Final = "stated_service_tier"
UNMETERED_REASON: Final = "unmetered_reason"
NOTES: Final = (STATED_MODEL, STATED_PROVIDER, STATED_SERVICE_TIER, UNMETERED_REASON)
"""What the ledger's `attributes` say of such an event beside its own fields."""

_UNDECIDED: Final = frozenset({"", "auto"})
"""What names no tier: the vendor decides, and says in its answer how."""
_BATCH: Final = "batch"
_BEDROCK: Final = "aws"
_GOOGLE: Final = "google"
_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:bedrock:(?P<region>[a-z0-9-]*):[0-9]*:(?P<kind>[a-z-]+)/(?P<model>[^/]+)", re.ASCII
)
_NAMES_A_MODEL: Final = frozenset({"foundation-model", "inference-profile"})
"""Kinds of ARNs that end with the id of a model; the others end with a name of one's own."""
_RESOURCE: Final = re.compile(
    r"(?:(?:projects/[^/]+/locations/[^/]+/)?publishers/[^/]+/models/|models/|google/)(?P<model>[^/]+)"
)
"""How Google's APIs write a model out in full: as a resource, or, behind OpenAI's API, with its publisher."""


_decode_exact: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


def to_store(body: bytes) -> str:
    """What is kept of an admitted event's `vendor_usage`, as JSON: its usage, digit by digit, no content."""
    try:
        value = _decode_exact(body)
    except InvalidOperation:  # an exponent below that of any number: nothing
        value = msgspec.json.decode(body)
    return _encode(usage_of(value)).decode()


def rename_provider(data: Data) -> dict[str, str] | None:
    """Gives the provider the name under which its prices are kept; returns a note, where that is another one."""
    stated = data.provider
    data.provider = provider_of(stated)
    return None if data.provider == stated else {STATED_PROVIDER: stated}


def rename_model(data: Data) -> dict[str, str]:
    """Gives a model that is named in full the name under which its prices are kept; returns notes as `read_body`."""
    stated = data.model
    data.model = _short_name(data, stated)
    return {} if data.model == stated else {STATED_MODEL: stated}


def read_body(event: Event) -> dict[str, str]:
    """Fills an admitted event from its `vendor_usage`; returns notes, one for each thing worth one.

    The quantities and the model come from the body: it names the model that answered, which is the one that is
    paid. At Bedrock that name lacks the geography on which the price depends: there the id that the call was made with
    stays, if it is that model's. The service tier is the one in which the body says that the call was served. Where the
    event stated another model or tier, that is noted. What else the event says itself stays. A body that cannot be
    read leaves the event as it is, without quantities, and is noted with the reason.
    """
    data = event.data
    stated = data.model
    try:
        reading = vendors.read(bytes(data.vendor_usage), stated)
        data.model = reading.model or stated
        if data.provider == _BEDROCK:
            _keep_geography(data, stated, reading.model)
        data.model = _short_name(data, data.model)
        if key_bytes(event.tenant, data) > KEY_BYTES_MAX:
            raise Unreadable("with the name of the model that answered the event's key is too long")
    except Unreadable as error:
        data.model = stated
        return {UNMETERED_REASON: str(error)}
    data.usage = reading.usage
    notes = {STATED_MODEL: stated} if stated not in ("", data.model) else {}
    notes |= _take_tier(data, reading)
    if data.reported_amount is None:
        data.reported_amount, data.reported_currency = reading.reported_amount, reading.reported_currency
    return notes


def _take_tier(data: Data, reading: Reading) -> dict[str, str]:
    """The body's tier, where it names one, in the event; returns a note, where the event named another.

    An answer within a batch says `standard` at most vendors: there an event that says `batch` knows more.
    """
    stated = data.service_tier
    served = reading.service_tier
    wanted = tier_of(data.provider, stated)
    if not served or (wanted == _BATCH and served == STANDARD and not reading.tells_batches):
        return {}
    data.service_tier = served
    if stated.lower() in _UNDECIDED or wanted == tier_of(data.provider, served):
        return {}
    return {STATED_SERVICE_TIER: stated}


def _keep_geography(data: Data, stated: str, answered: str) -> None:
    """`us.anthropic.claude-sonnet-4-5-20250929-v1:0`, of which the body names the middle; or an ARN that ends so."""
    called = _short_name(data, stated)
    if answered in called and _ARN.fullmatch(called) is None:
        data.model = called or answered


def _short_name(data: Data, model: str) -> str:
    """Without what an ARN of Bedrock or a resource of Google puts in front; a region in it is the call's."""
    if "/" not in model:
        return model
    if data.provider == _GOOGLE:
        resource = _RESOURCE.fullmatch(model)
        return model if resource is None else resource["model"]
    arn = _ARN.fullmatch(model) if data.provider == _BEDROCK else None
    if arn is None:
        return model
    data.region = data.region or arn["region"]
    return arn["model"] if arn["kind"] in _NAMES_A_MODEL else model
