"""The schedule of a late waker catches an aggregator that believes what is stored. It spoils its stack for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.live import judge_live, publish_budgets, wait_until_live, wake_up_late
from tests.fault.pipeline import Pipeline


@pytest.mark.campaign
@pytest.mark.stack
@pytest.mark.timeout(400)
async def test_without_the_cure_events_are_lost(pipeline: Pipeline) -> None:
    await publish_budgets(pipeline.settings)
    await wake_up_late(pipeline, [str(Path(__file__).with_name("believing.py"))])
    await wait_until_live(pipeline)
    with pytest.raises(AssertionError, match="differences"):
        await judge_live(pipeline)
