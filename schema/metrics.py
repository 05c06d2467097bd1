"""Every metric, with its meaning. Roles report them in the `detail` of their health, and at `/metrics`.

Names are `meterstream_<component>_<what>_<unit>`; counters end in `_total` and start at zero with the process. Those of
all roles have no component; whoever reads them knows the role by its label `role`.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum
from typing import Any, Final, Self

DURATION_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metric(StrEnum):
    """The names are part of the contract: one is never renamed.

    `meaning` is for people. `label`: a metric of several values is a map from this label's values to them; empty: one
    value.
    """

    meaning: str
    label: str

    def __new__(cls, name: str, meaning: str, label: str = "") -> Self:
        """A string with two attributes."""
        metric = str.__new__(cls, name)
        metric._value_ = name
        metric.meaning, metric.label = meaning, label
        return metric

    STATE = "meterstream_state", "1 for the state that the role is in", "state"
    STARTED_SECONDS = "meterstream_started_timestamp_seconds", "When the process began, in Unix time"
    REPORTED_SECONDS = "meterstream_reported_timestamp_seconds", "When the role last said how it is, in Unix time"
    LAG_RECORDS = "meterstream_lag_records", "Records that wait in the role's topics; absent while nobody knows"
    LAG_SECONDS = (
        "meterstream_lag_seconds",
        "For how long the oldest record that waits has been waiting, to about a second; absent while nobody knows",
    )
    REBALANCES_TOTAL = "meterstream_rebalances_total", "Times that partitions were given to this process"
    BATCH_SECONDS = (
        "meterstream_batch_seconds",
        "Rater: until the broker has confirmed what was decided together; aggregator: a flush; sink: a transaction",
    )

    RATER_EVENTS_TOTAL = (
        "meterstream_rater_events_total",
        "Events decided: priced, unpriced, unmetered, or the reason of rejection",
        "disposition",
    )
    RATER_PARTITIONS = "meterstream_rater_partitions", "Source partitions that this rater reads"
    RATER_PRICE_REVISION = "meterstream_rater_price_revision", "Revision of the price book in use"

    SINK_ROWS_TOTAL = (
        "meterstream_sink_rows_total",
        "Rows stored: events by disposition (ledger, duplicates, rejected), and alerts",
        "disposition",
    )
    SINK_PARTITIONS = "meterstream_sink_partitions", "Partitions that this sink has claimed"
    SINK_FRESHNESS_SECONDS = (
        "meterstream_sink_freshness_timestamp_seconds",
        "When the newest row that is stored was appended to its source topic, in Unix time",
    )
    SINK_FENCED_TOTAL = (
        "meterstream_sink_fenced_total",
        "Transactions that were refused because another sink owns the partition now",
    )
    SINK_FAILURES_TOTAL = (
        "meterstream_sink_failures_total",
        "Times that the sink began anew from what is stored, whatever the reason",
    )
    SINK_LEDGER_LEAVES = "meterstream_sink_ledger_leaves", "Leaves of the ledger; above 120 the sink is `degraded`"
    SINK_LEAVES_AHEAD = "meterstream_sink_leaves_ahead", "Leaves of the ledger that begin after today"

    AGGREGATOR_PARTITIONS = (
        "meterstream_aggregator_partitions",
        "Partitions of usage.priced that are live in this aggregator",
    )
    AGGREGATOR_ROWS_TOTAL = (
        "meterstream_aggregator_rows_total",
        "Rows folded: counted, late (in no live window), ahead (of the watermark), duplicate, repeated (by a rater)",
        "disposition",
    )
    AGGREGATOR_SENT_TOTAL = (
        "meterstream_aggregator_sent_total",
        "Records sent: alerts, aggregates, state; and state_bytes",
        "kind",
    )
    AGGREGATOR_BUDGETS = (
        "meterstream_aggregator_budgets",
        "Budgets that are counted, of all aggregators together",
    )
    AGGREGATOR_REREAD_RECORDS = "meterstream_aggregator_reread_records", "Records that a restart would read again"
    AGGREGATOR_DUPLICATES_HORIZON_SECONDS = (
        "meterstream_aggregator_duplicates_horizon_seconds",
        "How far back ids are known, at least; absent while all are, and where nothing came lately",
    )


class Durations:
    """A histogram with the bounds DURATION_BOUNDS_S."""

    def __init__(self) -> None:
        self._counts = [0] * (len(DURATION_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def figures(self) -> dict[str, Any]:
        """For the health's detail: `counts`, one for each bound and one for what is longer, and `sum_s`."""
        return {"counts": list(self._counts), "sum_s": self._sum_s}
