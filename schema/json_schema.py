"""The JSON Schemas of the public records, made from the definitions; `python -m meterstream.schema.json_schema`.

The files in `schema/json/` are what other languages read; a test holds them equal to this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from meterstream.schema.aggregate import Aggregate
from meterstream.schema.alert import Alert
from meterstream.schema.catalog import Entry
from meterstream.schema.event import UsageEvent
from meterstream.schema.price_file import PriceFile
from meterstream.schema.rejection import REASONS, Rejected
from meterstream.schema.units import PARENTS, QUANTITY_MAX

FOLDER = Path(__file__).parent / "json"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def usage_event() -> dict[str, Any]:
    """A CloudEvent of type `meterstream.usage.v1` in structured mode."""
    schema = UsageEvent.model_json_schema()
    # pydantic writes a Decimal as number or text; on the wire a quantity is a number.
    usage = schema["$defs"]["UsageData"]["properties"]["usage"]
    usage["propertyNames"] = {"enum": sorted(PARENTS)}
    usage["additionalProperties"] = {"type": "number", "minimum": 0, "maximum": QUANTITY_MAX}
    # What is unknown beside the CloudEvents attributes is an extension attribute.
    schema["required"] = sorted({*schema["required"], "specversion", "type"})
    return {"$schema": _DIALECT, **schema}


def rejected() -> dict[str, Any]:
    """A record of `usage.rejected`."""
    schema = msgspec.json.schema(Rejected)
    schema["$defs"]["Rejected"]["properties"]["reason"]["enum"] = sorted(REASONS)
    return {"$schema": _DIALECT, **schema}


def catalog_entry() -> dict[str, Any]:
    """A record of `meter.catalog`."""
    return {"$schema": _DIALECT, **msgspec.json.schema(Entry)}


def aggregate() -> dict[str, Any]:
    """A record of `usage.aggregates`."""
    return {"$schema": _DIALECT, **msgspec.json.schema(Aggregate)}


def alert() -> dict[str, Any]:
    """A record of `usage.alerts`."""
    return {"$schema": _DIALECT, **msgspec.json.schema(Alert)}


def price_file() -> dict[str, Any]:
    """A price file, for editors: YAML, read as JSON with its dates as text. The validator knows more than it says."""
    schema = PriceFile.model_json_schema()
    block = schema["$defs"]["DatedRates"]
    block["properties"]["rates"]["propertyNames"] = {"enum": sorted(PARENTS)}
    block["anyOf"] = [{"required": ["rates"]}, {"required": ["percent"]}]
    block["dependentRequired"] = {"above_unit": ["above"]}
    for name in ("billing", "models"):
        field = schema["properties"][name]
        schema["properties"][name] = {**field["anyOf"][0], "description": field["description"]}
    schema["anyOf"] = [{"required": ["models"]}, {"required": ["billing"]}]
    return {"$schema": _DIALECT, **schema}


SCHEMAS = {
    "usage-event.v1.schema.json": usage_event,
    "rejected.v1.schema.json": rejected,
    "catalog-entry.v1.schema.json": catalog_entry,
    "aggregate.v1.schema.json": aggregate,
    "alert.v1.schema.json": alert,
    "price-file.v1.schema.json": price_file,
}


def text_of(name: str) -> str:
    """The file's text. Raises KeyError for a name that is not in `SCHEMAS`."""
    return json.dumps(SCHEMAS[name](), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file_name in SCHEMAS:
        (FOLDER / file_name).write_text(text_of(file_name), "utf-8")
