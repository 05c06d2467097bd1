"""The exported JSON Schemas are current, valid, and agree with the golden examples."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from meterstream.schema.json_schema import FOLDER, SCHEMAS, text_of
from tests.unit.test_examples import INVALID, STRUCTURED


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_is_current(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == text_of(name), "run: python -m meterstream.schema.json_schema"
    jsonschema.Draft202012Validator.check_schema(json.loads(text_of(name)))


def test_no_other_files() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("path", STRUCTURED, ids=lambda path: path.stem)
def test_valid_examples(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMAS["usage-event.v1.schema.json"]())
    example = json.loads(path.read_text())
    events = example["value"] if isinstance(example["value"], list) else [example["value"]]
    for event in events:
        validator.validate(event)


def test_the_schema_refuses_what_a_schema_can_refuse() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMAS["usage-event.v1.schema.json"]())
    by_shape = {"missing_tenant", "unknown_field", "invalid_field", "unknown_unit", "invalid_quantity"}
    beyond_json_schema = {
        "no_operation",
        "reported_without_currency",
        "quantity_fractional_tokens",
        "quantity_too_fine",
        "naive_time",
        "key_too_long",
    }
    for path in INVALID:
        example = json.loads(path.read_text())
        if len(example["expect"]) == 1 and example["expect"][0] in by_shape and path.stem not in beyond_json_schema:
            try:
                event = json.loads(example.get("value_text", "null")) or example["value"]
            except ValueError:
                continue  # five thousand digits
            assert not validator.is_valid(event), path.stem
