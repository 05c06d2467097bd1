"""The JSON Schema of price files, for editors: it refuses nothing that the validator takes, and most of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from meterstream.schema import price_file
from meterstream.schema.errors import PriceFileInvalid
from meterstream.schema.json_schema import FOLDER, SCHEMAS
from tests.unit import test_price_conditions, test_price_file
from tests.unit.test_price_conditions import TIERED, with_block
from tests.unit.test_price_file import GOOD

NAME = "price-file.v1.schema.json"
SHIPPED = sorted((FOLDER.parent / "prices").glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMAS[NAME]())

BEYOND = {
    "there is no service tier",  # any name may be one; that this one is a slip the validator guesses
    "add `tenant`",  # of the block, the model or the file
    "is outside of -100 to 1000",
    "holds '\\x",  # a control character
}
"""What only the validator says."""


class EditorsLoader(yaml.SafeLoader):
    """As YAML 1.2 has it: a date is text."""


EditorsLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def told(text: str) -> list[str]:
    """What an editor underlines."""
    data: Any = yaml.load(text, EditorsLoader)
    return [error.message for error in VALIDATOR.iter_errors(data)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_fit_and_name_the_schema(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith(f"# yaml-language-server: $schema=../json/{NAME}\n")
    assert told(text) == []


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        TIERED,
        GOOD.replace('"2.50"', '"000.100"'),
        GOOD.replace('"2.50"', f'"{"9" * 12}.{"9" * 18}00"'),
        GOOD.replace('"2.50"', "withdrawn"),
        GOOD.replace("2026-06-01T02:00:00+02:00", "2026-06-01 02:00:00Z"),
        with_block("time_window: Mon-fri,sun 16:30-00:30  America/Argentina/Buenos_Aires"),
        with_block("service_tier: turbo"),
        with_block("above: 1\n        above_unit: images"),
        with_block("note: x").replace("  - names", "  - tenant: t\n    names").replace('"1"', '{percent: "-7.5"}'),
        with_block('percent: "5"').replace("source: s", "source: s\ntenant: t"),
    ],
)
def test_what_the_validator_takes_fits(text: str) -> None:
    assert price_file.parse(text)
    assert told(text) == []


MISTAKES = [
    *((GOOD.replace(*change, 1), said[0]) for change, _, said in test_price_file.MISTAKES),
    *((with_block(line), said) for line, said in test_price_conditions.MISTAKES),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_what_the_validator_refuses_does_not_fit(text: str, said: str) -> None:
    with pytest.raises(PriceFileInvalid):
        price_file.parse(text)
    assert bool(told(text)) is not any(beyond in said for beyond in BEYOND)
