"""Answers of real vendors, cut down to model and usage: see NOTICE for where they come from."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_FILE = Path(__file__).parent / "data" / "vendor_usage_bodies.jsonl.gz"


class Recorded(NamedTuple):
    """`vendor` is empty where the recording does not name the host for certain."""

    id: str
    vendor: str
    shape: str
    body: dict[str, Any]


@cache
def recorded() -> tuple[Recorded, ...]:
    """All of them, in the order of the file."""
    with gzip.open(_FILE, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(Recorded(row["id"], row["vendor"] or "", row["shape"], row["body"]) for row in rows)
