"""A report as text for people, by rich."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from meterstream.deploy.bench.pricing import OURS
from meterstream.deploy.bench.results import (
    AggregatorFigures,
    BoxFigures,
    LatencyFigures,
    PeerFigures,
    PricingFigures,
    ProfileFigures,
    RaterFigures,
    Report,
    SinkFigures,
    StateFigures,
)


def show(report: Report, console: Console) -> None:
    """Prints everything; what is not in the table is in the lines above and below it."""
    machine = report.machine
    console.print(f"{machine.cores} cores, {machine.cpu}, {machine.memory_mb >> 10} GB of memory", highlight=False)
    versions = {"Python": machine.python, "Kafka": machine.kafka, "Postgres": machine.postgres, **machine.packages}
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()), highlight=False)
    console.print(
        f"seed {report.seed}, {report.events:,} events a stage (slope from {report.warm_events:,}), "
        f"{report.tenants:,} tenants, 12 models, 2 % re-sends; all servers durable, all on this machine",
        highlight=False,
    )
    for name, value in report.settings.items():
        console.print(f"{name}={value}", highlight=False)
    for figures in report.profiles:
        table = _table(figures)
        if table.row_count:
            console.print(table)
    if report.state:
        console.print(_state_table(report.state))
    if report.pricing:
        console.print(_pricing_table(report.pricing))
    if report.checked:
        console.print(
            f"checked: counts and sums of every stage; in Postgres {report.checked:,} keys, positions and claims",
            highlight=False,
        )
    for note in report.notes:
        console.print(note, highlight=False)


def _table(figures: ProfileFigures) -> Table:
    table = Table(title=f"{figures.profile} rows; CPU µs per event", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    if figures.rater:
        _rater(table, figures.rater)
    if figures.sink:
        _sink(table, figures.sink)
    for live in figures.aggregator:
        _aggregator(table, live)
    for peer in figures.peers:
        _peer(table, peer)
    if figures.ratios:
        table.add_section()
    for ratio in figures.ratios:
        table.add_row(ratio.name, f"{ratio.value:.2f}", f"bar {ratio.bar}, goal {ratio.goal}")
    if figures.box:
        _box(table, figures.box)
    if figures.latency:
        _latency(table, figures.latency)
    return table


def _rater(table: Table, rater: RaterFigures) -> None:
    table.add_row(
        "rater", f"{rater.cpu_us:.2f}", f"{rater.rows_a_pack:.0f} rows a pack, peak {rater.rss_peak_bytes >> 20} MB"
    )
    table.add_row(
        "  broker beside it",
        f"{rater.broker_us:.2f}",
        f"{rater.record_bytes:.0f} B a record in, {rater.packed_bytes:.0f} B a row out (before zstd)",
    )


def _sink(table: Table, sink: SinkFigures) -> None:
    table.add_row("sink, client + backend", f"{sink.cpu_us:.2f}", f"{sink.rollup_rows:.2f} new rollup rows an event")
    table.add_row("  client", f"{sink.client_us:.2f}", f"peak {sink.rss_peak_bytes >> 20} MB")
    table.add_row("  Postgres backends", f"{sink.backends_us:.2f}", f"all of Postgres {sink.postgres_bytes >> 20} MB")
    table.add_row("  Postgres background", f"{sink.background_us:.2f}", "checkpointer, writers, autovacuum; not added")
    table.add_row("  broker beside it", f"{sink.broker_us:.2f}", "")


def _aggregator(table: Table, live: AggregatorFigures) -> None:
    table.add_row(
        f"aggregator, {live.packs}",
        f"{live.cpu_us:.2f}",
        f"{live.rows_a_pack:.0f} rows a pack, peak {live.rss_peak_bytes >> 20} MB",
    )
    table.add_row(
        "  broker beside it",
        f"{live.broker_us:.2f}",
        f"for an event: {live.aggregates:.3f} aggregates, {live.state_bytes:.1f} B of state (before zstd)",
    )


def _state_table(steps: list[StateFigures]) -> Table:
    table = Table(title="aggregator by live counters", title_justify="left")
    for head in (
        "counters",
        "RSS MB",
        "restarted",
        "live after s",
        "queued s",
        "load s",
        "records reread",
        "state B a row",
        "kept MB",
    ):
        table.add_column(head, justify="right")
    for step in steps:
        table.add_row(
            f"{step.counters:,}",
            f"{step.rss_bytes >> 20}",
            f"{step.rss_restarted_bytes >> 20}",
            f"{step.start_s:.2f}",
            f"{step.queued_s:.2f}",
            f"{step.load_s:.2f}",
            f"{step.reread_records:,}",
            f"{step.state_bytes_a_row:.1f}",
            f"{step.changelog_bytes / 1e6:.2f}",
        )
    table.caption = (
        "wall, and how much of it was spent in the queue for a processor; "
        "bar: live ≤ 3 s after the start of the process with 100,000 counters"
    )
    return table


def _pricing_table(figures: list[PricingFigures]) -> Table:
    table = Table(title="the price of an event, nothing else; CPU µs", title_justify="left")
    for head in ("", "rows", "events", "µs", "our amount", "no amount", "bar"):
        table.add_column(head, justify="left" if head in ("", "bar") else "right")
    for one in figures:
        bar = "≤ 2.5" if one.name == OURS else ""
        counts = f"{one.same:,}", f"{one.unknown:,}"
        table.add_row(one.name, one.profile, f"{one.events:,}", f"{one.cpu_us:.2f}", *counts, bar)
    return table


def _peer(table: Table, peer: PeerFigures) -> None:
    parts = "" if peer.server_us is None else f"client {peer.client_us:.2f} + backend {peer.server_us:.2f}; "
    table.add_row(peer.name, f"{peer.cpu_us:.2f}", f"{parts}{peer.events:,} events")


def _box(table: Table, box: BoxFigures) -> None:
    table.add_section()
    rate = "too few events" if box.events_a_second is None else f"{box.events_a_second:,.0f}"
    table.add_row("whole box, events a second", rate, "wall; bar ≥ 40,000 full rows, goal 100,000")
    table.add_row("  all processes", f"{sum(box.cpu_us.values()):.2f}", _listed(box.cpu_us))
    table.add_row("  priced, not yet stored", f"{box.backlog_max:,}", "at most; 0 at the end")


def _listed(cpu_us: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in cpu_us.items())


def _latency(table: Table, latency: LatencyFigures) -> None:
    table.add_section()
    table.add_row(
        "publish → alert read, p99 ms",
        f"{latency.alert_p99_ms:.0f}",
        f"p50 {latency.alert_p50_ms:.0f}, max {latency.alert_max_ms:.0f}; {latency.alerts:,} alerts; "
        "bar ≤ 1,000 at 20,000/s",
    )
    table.add_row(
        "publish → committed, p99 ms",
        f"{latency.p99_ms:.0f}",
        f"p50 {latency.p50_ms:.0f}, max {latency.max_ms:.0f}; {latency.rate:,}/s for {latency.seconds:g} s, open loop "
        f"({latency.sent_a_second:,.0f}/s came to be); bar ≤ 1,200 at 20,000/s",
    )
    table.add_row(
        "  sent, not yet stored",
        f"{latency.backlog_end:,}",
        f"at the end of the load; {latency.backlog_half:,} half-way",
    )
    all_us = sum(latency.cpu_us.values())
    table.add_row(
        "  all processes",
        f"{all_us:.2f}",
        f"{_listed(latency.cpu_us)}: {all_us * latency.rate / 1e6:.1f} processors at {latency.rate:,}/s",
    )
