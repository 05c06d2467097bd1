"""Every metric name, with its meaning. Roles report them in the `detail` of their health.

Names are `meterstream_<component>_<what>_<unit>`; counters end in `_total` and start at zero with the process.
"""

from __future__ import annotations

from enum import StrEnum


class Metric(StrEnum):
    """The names are part of the contract: one is never renamed."""

    RATER_EVENTS_TOTAL = "meterstream_rater_events_total"
    """Events decided, by disposition: priced, unpriced, unmetered, or the reason of rejection."""
    RATER_PARTITIONS = "meterstream_rater_partitions"
    """Source partitions that this rater reads."""
    RATER_PRICE_REVISION = "meterstream_rater_price_revision"
    """Revision of the price book in use."""
    SINK_ROWS_TOTAL = "meterstream_sink_rows_total"
    """Rows stored: events by disposition (ledger, duplicates, rejected), and alerts."""
    SINK_PARTITIONS = "meterstream_sink_partitions"
    """Partitions that this sink has claimed."""
    SINK_LEDGER_LEAVES = "meterstream_sink_ledger_leaves"
    """Leaves of the ledger; above 120 the sink is `degraded`."""
    AGGREGATOR_PARTITIONS = "meterstream_aggregator_partitions"
    """Partitions of usage.priced that are live in this aggregator."""
    AGGREGATOR_ROWS_TOTAL = "meterstream_aggregator_rows_total"
    """Rows folded: counted, late (in no live window), ahead (of the watermark), duplicate, repeated (by a rater)."""
    AGGREGATOR_SENT_TOTAL = "meterstream_aggregator_sent_total"
    """Records sent: alerts, aggregates, state; and state_bytes."""
    AGGREGATOR_BUDGETS = "meterstream_aggregator_budgets"
    """Budgets that are counted, of all aggregators together."""
    AGGREGATOR_REREAD_RECORDS = "meterstream_aggregator_reread_records"
    """Records that a restart would read again."""
    AGGREGATOR_DUPLICATES_HORIZON_SECONDS = "meterstream_aggregator_duplicates_horizon_seconds"
    """How far back ids are known, at least; null while all are."""
