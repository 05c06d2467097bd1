"""`meterstream verify` and `meterstream where`: does it add up, and where is this event?"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from meterstream.deploy import event_loop

if TYPE_CHECKING:
    from meterstream.deploy.verify.live import LiveReport
    from meterstream.deploy.verify.raw import RawPartition
    from meterstream.deploy.verify.run import Found, Result
    from meterstream.sinks.postgres.verify import Check


class _Moment(click.ParamType):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """ISO 8601; without a zone it is UTC."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-01-31 or 2026-01-31T12:00:00Z", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.command()
@click.option("--since", type=_Moment(), help="Leave out what happened before this UTC day.")
@click.option("--raw", "is_raw", is_flag=True, help="Reread the raw topics and compare every position.")
@click.option(
    "--live/--no-live", "is_live", default=None, help="Compare live aggregates too. Default: where a broker is known."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(since: datetime | None, is_raw: bool, is_live: bool | None, as_json: bool) -> int:
    """Prove that ledger, rollups, topics and live aggregates agree; exit 1 names the place.

    With --live it is 1, too, where the aggregator is so far behind that something of it was not compared.
    """
    from meterstream.deploy.verify.run import knows_broker
    from meterstream.deploy.verify.run import verify as compare
    from meterstream.schema.settings import Settings

    settings = Settings.load()
    wanted = knows_broker(settings) if is_live is None else is_live
    result = event_loop.run(compare(settings, since=since, is_raw=is_raw, is_live=wanted))
    if as_json:
        click.echo(_as_json({"is_good": result.is_good, **asdict(result)}))
    else:
        _print_result(result)
    is_short = bool(is_live and result.live and result.live.behind)
    if is_short:
        click.echo("--live asks for all of it: `meterstream status` shows how the aggregator is", err=True)
    return 0 if result.is_good and not is_short else 1


def _print_result(result: Result) -> None:
    report = result.report
    since = "everything" if report.since is None else f"from {report.since:%Y-%m-%d} on"
    click.echo(f"One snapshot of {report.taken_at:%Y-%m-%d %H:%M:%S} UTC, {since}")
    for check in report.checks:
        _print_check(check)
    if report.judged_twice:
        click.echo(f"  {'judged twice':<26} {report.judged_twice:>12,} positions: two raters of different versions")
    for partition in result.raw or ():
        _print_partition(partition)
    if result.live is None:
        click.echo("  live aggregates: not compared")
    else:
        _print_live(result.live)
    for total in report.totals:
        unpriced = f", {total.unpriced_events:,} of them unpriced" if total.unpriced_events else ""
        click.echo(f"  {total.currency} {total.amount:,f} for {total.events:,} events{unpriced}")
    click.echo(_verdict(result))


def _verdict(result: Result) -> str:
    if not result.is_good:
        return "This does not agree: see the places above."
    if result.live and result.live.behind:
        return f"What was compared agrees; not compared: live aggregates of {_partitions(result.live.behind)}."
    return "All of it agrees."


def _print_check(check: Check) -> None:
    click.echo(f"  {check.name:<26} {check.compared:>12,} {check.unit}, {check.different:,} different")
    _print_differences(check.different, check.differences)


def _print_live(live: LiveReport) -> None:
    for check, left_out in ((live.windows, live.windows_left_out), (live.budgets, live.budgets_left_out)):
        _print_check(check)
        if left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))
            click.echo(f"    not compared: {reasons}")
    if live.budgets_bounded:
        click.echo(
            f"    {live.budgets_bounded:,} of these periods began before their counting did: live must be no less than "
            "what came since, and no more than all of it"
        )
    if live.late_events:
        click.echo(f"    {live.late_events:,} events only in Postgres: they came when their windows were settled")
    if live.behind:
        click.echo(f"    the aggregator is behind Postgres, not compared: {_partitions(live.behind)}")
    if live.unwritten:
        click.echo(f"    no aggregator has written here, not compared: {_partitions(live.unwritten)}")


def _partitions(numbers: tuple[int, ...]) -> str:
    return f"partitions {', '.join(map(str, numbers))} of usage.priced"


def _print_partition(partition: RawPartition) -> None:
    read = (
        f"offsets {partition.first_offset:,} to {partition.last_offset:,}"
        if partition.last_offset >= partition.first_offset
        else "nothing read"
    )
    click.echo(
        f"  {partition.name:<26} {partition.positions:>12,} positions, {partition.different:,} different ({read})"
    )
    if partition.judged_twice:
        click.echo(f"    {partition.judged_twice:,} judged twice, by raters of different versions")
    if partition.before_log_start:
        click.echo(f"    {partition.before_log_start:,} rows not compared: the topic no longer holds their records")
    _print_differences(partition.different, partition.differences)


def _print_differences(count: int, differences: tuple[tuple[str, str], ...]) -> None:
    for place, detail in differences:
        click.echo(f"    {place}: {detail}")
    if count > len(differences):
        click.echo(f"    and {count - len(differences):,} more")


@click.command()
@click.argument("event_id", metavar="ID")
@click.option("--tenant", help="Whose event it is.")
@click.option("--source", help="Its source; with the tenant the look-up takes milliseconds.")
@click.option("--raw", "is_raw", is_flag=True, help="Look also at what is published and not stored yet.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def where(event_id: str, tenant: str | None, source: str | None, is_raw: bool, as_json: bool) -> int:
    """Say where the event with this ID is; exit 1 when nowhere."""
    from meterstream.deploy.verify.run import where as look_up
    from meterstream.schema.settings import Settings

    found = event_loop.run(look_up(Settings.load(), event_id, tenant=tenant, source=source, is_raw=is_raw))
    if as_json:
        click.echo(_as_json(asdict(found)))
    else:
        _print_found(found, is_raw=is_raw)
    return 0 if found.stored.is_found or found.published else 1


def _print_found(found: Found, *, is_raw: bool) -> None:
    stored = found.stored
    for row in stored.charged:
        amount = row.pricing if row.amount is None else f"{row.amount:f} {row.currency}"
        click.echo(
            f"ledger     {row.place}: {amount}, tenant {row.tenant}, happened {row.occurred_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    for repeat in stored.repeated:
        click.echo(
            f"duplicate  {repeat.place}: tenant {repeat.tenant}, came again {repeat.appended_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    for refusal in stored.refused:
        click.echo(f"rejected   {refusal.place}: {refusal.reason}: {refusal.detail}")
    for place in found.published:
        click.echo(f"published  {place}: not stored yet")
    if not stored.is_found and not found.published:
        click.echo("not here")
    beyond = ""
    if is_raw:
        part = "all" if found.is_scan_complete else "only the first"
        beyond = f"; {part} {found.records_scanned:,} records that are published and not stored yet"
    click.echo(f"searched: {stored.searched}; duplicates; rejected{beyond}")


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, default=_plain)


def _plain(value: object) -> str:
    """Amounts as decimal text, times as ISO 8601."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    assert isinstance(value, datetime)
    return value.isoformat()
