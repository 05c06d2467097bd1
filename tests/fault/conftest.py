"""One stack for all fault runs of a module, and its pipeline; roles end with each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fault.pipeline import Pipeline

SEED = int(os.environ.get("FAULT_SEED", "1000"))


@pytest.fixture(scope="module")
async def prepared(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Topics, tables and prices; what one test has published, the next one's judgement looks at again."""
    return await Pipeline.prepared(home, tmp_path_factory.mktemp("logs"), SEED)


@pytest.fixture
async def pipeline(prepared: Pipeline) -> AsyncIterator[Pipeline]:
    """Without roles: the test starts what it needs."""
    print(f"seeds from {prepared.seed + 1} on (FAULT_SEED={SEED})")
    yield prepared
    print(prepared.words())  # shown where the test has failed
    await prepared.stop_roles()
