"""`meterstream price check`: what the events of a file would cost; no server needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.moment import Moment
from meterstream.deploy.cli.price_text import charge_json, charge_lines, usage_json
from meterstream.deploy.cli.text import counted, printable, utc
from meterstream.schema.money import format_amount

if TYPE_CHECKING:
    from meterstream.deploy.pricing.check import Checked, Summary
    from meterstream.processors.rating.explain import PriceList


@click.command()
@click.option(
    "--in", "path", metavar="FILE", required=True, help="One event a line, plain or gzip; - is standard input."
)
@click.option(
    "--book",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A price file instead of the shipped prices; may be given again.",
)
@click.option("--stored", is_flag=True, help="The prices of the database instead of the shipped ones.")
@click.option("--at", type=Moment(), help="Price every event as if it had happened then.")
@click.option("--as-known-at", type=Moment(), help="With --stored: leave out what was not known yet.")
@click.option("--tenant", help="Whose prices count where a line names no tenant.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object a line, the summary last.")
def check(
    path: str,
    files: tuple[Path, ...],
    stored: bool,
    at: datetime | None,
    as_known_at: datetime | None,
    tenant: str | None,
    as_json: bool,
) -> int:
    """Say what events would cost, line by line, as the rater would charge them. Nothing is stored.

    A line is a CloudEvent, or its data alone; docs/prices.md has the formats. Times are UTC, as 2026-01-31 or
    2026-01-31T17:00:00Z. The exit code is 0 when every event was priced, 1 when some were unpriced, unmetered or
    rejected, 2 when the command cannot do what was asked.
    """
    from meterstream.deploy.pricing import check as price_check

    summary = price_check.Summary()
    options = price_check.Options(datetime.now(UTC), at, tenant or price_check.SOURCE)
    prices = _prices(files, stored, as_known_at)
    for checked in price_check.check(path, prices, options, summary):
        if as_json:
            click.echo(json.dumps(_as_json(checked, is_stored=stored)))
        else:
            _print(checked)
    click.echo(json.dumps({"summary": _summary_json(summary)}) if as_json else _summary_text(summary))
    return 0 if summary.is_all_priced else 1


def _prices(files: tuple[Path, ...], stored: bool, as_known_at: datetime | None) -> PriceList:
    from meterstream.deploy.pricing import check as price_check
    from meterstream.schema.errors import UsageError
    from meterstream.schema.settings import Settings

    if stored and files:
        raise UsageError("--stored and --book name two books: leave one out")
    if as_known_at is not None and not stored:
        raise UsageError("--as-known-at needs --stored: a file does not say since when its prices are known")
    return event_loop.run(price_check.stored(Settings.load(), as_known_at)) if stored else price_check.of_files(files)


def _as_json(checked: Checked, *, is_stored: bool) -> dict[str, object]:
    shown: dict[str, object] = {"line": checked.line}
    if checked.index:
        shown["index"] = checked.index
    shown |= {"id": checked.event_id, "status": checked.status}
    if checked.reason:
        shown["reason"] = checked.reason
    if checked.detail:
        shown["detail"] = checked.detail
    event = checked.event
    if event is not None:
        data = event.data
        shown |= {"tenant": event.tenant, "time": utc(event.time), "provider": data.provider, "model": data.model}
        if data.service_tier:
            shown["service_tier"] = data.service_tier
        if data.reported_amount is not None:
            shown |= {"reported_amount": data.reported_amount, "reported_currency": data.reported_currency}
    explanation = checked.explanation
    if explanation is not None:
        shown["usage"] = usage_json(explanation.usage)
        shown |= charge_json(explanation, is_stored=is_stored)
    return shown


def _print(checked: Checked) -> None:
    event, explanation = checked.event, checked.explanation
    place = f"{checked.line}" + (f"[{checked.index}]" if checked.index else "")
    said = [place, printable(checked.event_id or "(no id)"), checked.status]
    if explanation is not None and explanation.amount_pico is not None:
        said.append(f"{format_amount(explanation.amount_pico)} {explanation.currency}")
    if event is not None:
        said.append(printable(f"{event.data.provider} {event.data.model}".rstrip()))
    why = ": ".join(filter(None, (checked.reason, checked.detail)))
    click.echo("  ".join(said) + (f"  {printable(why)}" if why else ""))
    for text in charge_lines(explanation) if explanation is not None else ():
        click.echo(f"    {text}")


def _summary_json(summary: Summary) -> dict[str, object]:
    from meterstream.deploy.pricing.check import STATUSES

    amounts = {currency: format_amount(amount) for currency, amount in sorted(summary.amounts_pico.items())}
    counts = {status: summary.statuses[status] for status in STATUSES}
    return {"lines": summary.lines, "events": summary.statuses.total(), **counts, "amounts": amounts}


def _summary_text(summary: Summary) -> str:
    from meterstream.deploy.pricing.check import STATUSES

    counts = [f"{summary.statuses[status]:,} {status}" for status in STATUSES if summary.statuses[status]]
    amounts = [f"{format_amount(amount)} {currency}" for currency, amount in sorted(summary.amounts_pico.items())]
    return ": ".join(filter(None, (counted(summary.statuses.total(), "event"), ", ".join(counts), ", ".join(amounts))))
