"""Waiting until the raters price by a new revision of the price book."""

from __future__ import annotations

import time
from typing import Final

from meterstream.deploy.running import health
from meterstream.schema.errors import MeterstreamError
from meterstream.schema.metrics import Metric
from meterstream.schema.settings import Settings

WAIT_S: Final = 30.0
ELSEWHERE_S: Final = 2.0
"""Raters elsewhere cannot be asked from here; they read a change within a fraction of this."""

_POLL_S: Final = 0.1
_ROLE: Final = "rater"
_LIVES: Final = frozenset({"starting", "running", "degraded", "draining"})


def await_revision(settings: Settings, revision: int) -> None:
    """Blocks until the rater of this folder has this revision or a newer one; one that does not run reads it when it
    starts.

    `settings` as they were loaded, not resolved: where they name a broker, raters may be elsewhere. Raises
    MeterstreamError where a rater that runs has not taken it after WAIT_S.
    """
    if settings.kafka_bootstrap:
        time.sleep(ELSEWHERE_S)
    deadline = time.monotonic() + WAIT_S
    while any(_lacks(role, revision) for role in health.read_all(settings.home)):
        if time.monotonic() > deadline:
            raise MeterstreamError(
                f"the rater has not taken revision {revision} of the prices for {WAIT_S:.0f} s: "
                "`meterstream logs rater` says why"
            )
        time.sleep(_POLL_S)


def _lacks(role: health.RoleHealth, revision: int) -> bool:
    if role.role != _ROLE or role.state not in _LIVES or role.report is None:
        return False
    return int(role.report.detail.get(Metric.RATER_PRICE_REVISION, -1)) < revision
