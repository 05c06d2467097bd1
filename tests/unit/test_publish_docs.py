"""docs/publish.md names every field and unit of the contract, and its example is a good event."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from meterstream.deploy.cli import publish as publish_command
from meterstream.deploy.cli import simulate as simulate_command
from meterstream.processors.rating import vendors
from meterstream.producers.line_check import check_line
from meterstream.producers.lines import Line
from meterstream.schema.event import UsageData, UsageEvent
from meterstream.schema.topics import source_ids
from meterstream.schema.units import UNITS

TEXT = (Path(__file__).parents[2] / "docs" / "publish.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted({*UsageEvent.model_fields, *UsageData.model_fields, *UNITS}))
def test_it_is_named(name: str) -> None:
    assert f"`{name}`" in TEXT


def test_the_example_is_a_good_event() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code[code.index("EVENT = ") : code.index("async def main")], names)
    checked = check_line(Line(1, 0, json.dumps(names["EVENT"]).encode()), derive_ids=False)
    assert (checked.key, checked.problem) == (b"acme", "")


def test_the_vendors_body_is_charged_as_it_says() -> None:
    (section,) = re.findall(r"## Vendors' own bodies\n(.*?)\n## ", TEXT, re.DOTALL)
    (data,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    (charged,) = re.findall(r"is charged as `(.*?)`", section)
    body = UsageData.model_validate_json(data).vendor_usage
    assert vendors.read(json.dumps(body).encode()).usage == json.loads(charged)


def test_the_commands_offer_the_source_topics() -> None:
    assert set(publish_command.TOPICS) == set(simulate_command.TOPICS) == set(source_ids())
