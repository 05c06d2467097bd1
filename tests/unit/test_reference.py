"""docs/reference.md is what the docstrings say, and lists all that services import."""

from __future__ import annotations

import importlib

import pytest

from meterstream import producers
from meterstream.deploy.reference import PAGE, PUBLIC, page


def test_it_is_current() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: make reference"


def test_every_public_name_of_the_client_is_in_it() -> None:
    listed = {name for _, names in PUBLIC["meterstream.producers"] for name in names.split()}
    assert set(producers.__all__) <= listed


@pytest.mark.parametrize("module", [module for module in PUBLIC if module != "meterstream.producers"])
def test_a_name_is_imported_from_where_it_says(module: str) -> None:
    for _, names in PUBLIC[module]:
        for name in names.split():
            assert hasattr(importlib.import_module(module), name)


def test_everything_in_it_says_what_it_is() -> None:
    blocks = page().split("\n### ")[1:]
    assert len(blocks) == sum(len(names.split()) for files in PUBLIC.values() for _, names in files)
    for block in blocks:
        _, _, text = block.partition("\n\n")
        assert text.strip() and not text.startswith(("Base:", "- ")), block
