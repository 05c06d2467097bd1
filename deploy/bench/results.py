"""Figures, as they are printed. Times are CPU unless they say wall; µs are per event."""

from __future__ import annotations

from dataclasses import dataclass, field

from meterstream.deploy.bench.machine import Machine
from meterstream.producers.simulated import Profile


@dataclass(frozen=True)
class RaterFigures:
    """The rater alone over a preloaded topic."""

    events: int
    cpu_us: float
    broker_us: float
    rss_peak_bytes: int
    record_bytes: float
    """Mean size of a raw record's value."""
    rows_a_pack: float
    packed_bytes: float
    """Mean size of a row in a pack, before compression."""


@dataclass(frozen=True)
class SinkFigures:
    """The Postgres sink alone over the rater's output."""

    events: int
    client_us: float
    backends_us: float
    background_us: float
    """Checkpointer, writers, autovacuum: not in the ratio."""
    broker_us: float
    rollup_rows: float
    """New rollup rows an event, hourly and daily: the more keys the events have, the dearer they are."""
    rss_peak_bytes: int
    postgres_bytes: int
    """All processes of the server, shared pages in proportion."""

    @property
    def cpu_us(self) -> float:
        """Client and backends: what the ratio compares."""
        return self.client_us + self.backends_us


@dataclass(frozen=True)
class AggregatorFigures:
    """The aggregator alone over the rater's output, with packs of one size."""

    packs: str
    """How the rater was set when it made them."""
    events: int
    rows_a_pack: float
    cpu_us: float
    broker_us: float
    rss_peak_bytes: int
    aggregates: float
    """Records of `usage.aggregates` an event."""
    state_records: float
    """Records of state an event."""
    state_bytes: float
    """Of state an event, before compression."""


@dataclass(frozen=True)
class BoxFigures:
    """Everything at once over a preloaded topic, from the rater's first commit to the sink's last."""

    events: int
    events_a_second: float | None
    """None: the rater's first commit had everything, too few events for a rate."""
    backlog_max: int
    """Events priced and committed, but not stored yet, at most."""
    cpu_us: dict[str, float]
    """Process -> µs."""


@dataclass(frozen=True)
class LatencyFigures:
    """Open loop; from the moment at which an event was to be sent to its row's commit."""

    rate: int
    seconds: float
    events: int
    sent_a_second: float
    """What the sender came to: less than `rate` where it could not keep up."""
    alerts: int
    """Events of the load that raised one."""
    alert_p50_ms: float
    """To the moment at which a consumer has read the alert."""
    alert_p99_ms: float
    alert_max_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    backlog_half: int
    """Events sent but not stored, half-way through the load, and at its end: flat when they are alike."""
    backlog_end: int
    cpu_us: dict[str, float]
    """Process -> µs for an event, from the first one's sending until all are stored and counted."""


@dataclass(frozen=True)
class StateFigures:
    """The aggregator with so many live counters."""

    counters: int
    """One (tenant, provider, model, currency) in one hour or one day, or one period of one budget."""
    rows: int
    """Folded for this step."""
    rss_bytes: int
    """After folding; the ids of the horizon are part of it."""
    rss_restarted_bytes: int
    state_bytes_a_row: float
    """Written in this step, before compression, the full state at the end included."""
    state_bytes_a_record: float
    """Of the records before that."""
    changelog_bytes: int
    """Of the newest record of each key, before compression: what compaction leaves."""
    start_s: float
    """Wall: from the start of the process until every partition is live."""
    queued_s: float
    """Of that its main thread has waited for a processor: what other work on the machine has cost it."""
    load_s: float
    """Of that after the partitions were assigned: what was not loaded ahead, and the log's end."""
    reread_records: int
    restart_cpu_s: float
    """Of the whole restart, its end included."""


@dataclass(frozen=True)
class PeerFigures:
    """The same work done in another way."""

    name: str
    events: int
    client_us: float
    server_us: float | None = None
    """Postgres' backend, where the peer writes there."""

    @property
    def cpu_us(self) -> float:
        """Client and server."""
        return self.client_us + (self.server_us or 0.0)


@dataclass(frozen=True)
class PricingFigures:
    """One way to price. µs of CPU per event; the best of several rounds, once everything has been looked up."""

    name: str
    profile: Profile
    events: int
    cpu_us: float
    same: int
    """Events with our amount, a float's last digits aside."""
    unknown: int
    """Events for which it has no amount."""


@dataclass(frozen=True)
class Ratio:
    """Ours against a peer, with the bar and the goal of the design."""

    name: str
    value: float
    bar: str
    goal: str


@dataclass
class ProfileFigures:
    """Everything of one row profile; None or empty: not asked for."""

    profile: Profile
    rater: RaterFigures | None = None
    sink: SinkFigures | None = None
    aggregator: list[AggregatorFigures] = field(default_factory=list)
    box: BoxFigures | None = None
    latency: LatencyFigures | None = None
    peers: list[PeerFigures] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """One run."""

    machine: Machine
    seed: int
    events: int
    warm_events: int
    tenants: int
    durable: bool
    settings: dict[str, str]
    """METERSTREAM_* that the user has set for the roles."""
    checked: int
    """Keys, positions and claims compared in Postgres at the end; counts and sums were compared before."""
    profiles: list[ProfileFigures]
    state: list[StateFigures]
    pricing: list[PricingFigures]
    notes: list[str]
