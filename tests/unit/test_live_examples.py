"""The golden examples of aggregates and alerts: both the product and the JSON Schema read them as they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from meterstream.schema.aggregate import decode_aggregate, encode_aggregate, key_of
from meterstream.schema.alert import alert_id, decode_alert, encode_alert
from meterstream.schema.errors import RecordUnreadable
from meterstream.schema.json_schema import SCHEMAS

EXAMPLES = Path(__file__).parents[2] / "schema" / "examples"


def examples(folder: str) -> pytest.MarkDecorator:
    found = sorted((EXAMPLES / folder).glob("*.json"))
    return pytest.mark.parametrize(
        "example", [pytest.param(json.loads(path.read_text()), id=path.stem) for path in found]
    )


def bytes_of(example: dict[str, Any]) -> bytes:
    text: str = example.get("value_text") or json.dumps(example["value"])
    return text.encode()


def schema_accepts(name: str, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMAS[name]()).is_valid(value))


def says_only_a_time_without_zone(example: dict[str, Any]) -> bool:
    """JSON Schema calls a format what it does not check."""
    return "timezone" in example["expect"]


@examples("aggregates/valid")
def test_an_aggregate(example: dict[str, Any]) -> None:
    if example["value"] is None:
        return
    aggregate = decode_aggregate(bytes_of(example))
    assert key_of(aggregate).decode() == example["key"]
    assert json.loads(encode_aggregate(aggregate)) == example["value"]
    assert schema_accepts("aggregate.v1.schema.json", example["value"])


@examples("aggregates/invalid")
def test_no_aggregate(example: dict[str, Any]) -> None:
    with pytest.raises(RecordUnreadable) as caught:
        decode_aggregate(bytes_of(example))
    assert example["expect"] in str(caught.value)
    if "value" in example and not says_only_a_time_without_zone(example):
        assert not schema_accepts("aggregate.v1.schema.json", example["value"])


@examples("alerts/valid")
def test_an_alert(example: dict[str, Any]) -> None:
    alert = decode_alert(bytes_of(example))
    data = alert.data
    assert alert.id == alert_id(data.tenant, data.budget, data.version, data.period_start, data.percent)
    assert alert.tenant == data.tenant == example["key"]
    assert json.loads(encode_alert(alert)) == example["value"]
    assert schema_accepts("alert.v1.schema.json", example["value"])


@examples("alerts/invalid")
def test_no_alert(example: dict[str, Any]) -> None:
    with pytest.raises(RecordUnreadable) as caught:
        decode_alert(bytes_of(example))
    assert example["expect"] in str(caught.value)
    if not says_only_a_time_without_zone(example):
        assert not schema_accepts("alert.v1.schema.json", example["value"])
