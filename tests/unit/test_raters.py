"""Waiting until a rater prices by a revision: which raters are waited for, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest

from meterstream.deploy.running import raters
from meterstream.deploy.running.health import HealthFile
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.metrics import Metric
from meterstream.schema.settings import Settings


def test_only_a_rater_that_lives_and_lacks_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    raters.await_revision(settings, 3)  # none has ever run here
    HealthFile(tmp_path, "sink-postgres").write("running")
    rater = HealthFile(tmp_path, "rater")
    looks = iter(
        (
            ("starting", {}),
            ("running", {Metric.RATER_PRICE_REVISION: 2}),
            ("degraded", {Metric.RATER_PRICE_REVISION: 4}),
        )
    )
    slept: list[float] = []

    def next_look(seconds: float) -> None:
        slept.append(seconds)
        state, detail = next(looks)
        rater.write(state, **detail)  # type: ignore[arg-type]

    monkeypatch.setattr("time.sleep", next_look)
    rater.write("starting")
    raters.await_revision(settings, 3)
    assert len(slept) == 3

    monkeypatch.setattr(raters, "WAIT_S", -1)
    with pytest.raises(MeterstreamError, match="the rater has not taken revision 5 of the prices"):
        raters.await_revision(settings, 5)
    rater.write("stopped")
    raters.await_revision(settings, 5)
