"""`meterstream explain`: why an event was charged what it was."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import zip_longest
from typing import TYPE_CHECKING

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.moment import Moment
from meterstream.deploy.cli.price_text import amount_text, charge_json, charge_lines, exact_text, plain, usage_json
from meterstream.deploy.cli.text import printable, utc
from meterstream.schema.money import format_amount

if TYPE_CHECKING:
    from meterstream.deploy.pricing.explain import Explained
    from meterstream.schema.catalog import Price


@click.command()
@click.argument("event_id", metavar="EVENT_ID")
@click.option("--tenant", help="Whose event it is.")
@click.option("--as-known-at", type=Moment(), help="Compute with the prices that were known then.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(event_id: str, tenant: str | None, as_known_at: datetime | None, as_json: bool) -> int:
    """Say why an event was charged what it was: each line with its rate and price, computed again.

    The prices are those that were known at the revision with which it was priced, unless you give another moment.
    The exit code is 0 when the charge is confirmed, 1 when it is not or there is no such event.
    """
    from meterstream.deploy.pricing.explain import explain_event
    from meterstream.schema.settings import Settings

    found = event_loop.run(explain_event(Settings.load(), event_id, tenant=tenant, as_known_at=as_known_at))
    if as_json:
        click.echo(json.dumps({"searched": found.searched, "rows": [_as_json(row) for row in found.rows]}))
    else:
        for row in found.rows:
            _print(row)
        if not found.rows:
            click.echo(f"no charge under this id; searched: {found.searched}. `meterstream where` says where it is")
    return 0 if found.rows and all(row.is_equal for row in found.rows) else 1


def _as_json(row: Explained) -> dict[str, object]:
    recomputed = row.recomputed
    return {
        "event_id": row.event_id,
        "tenant": row.tenant,
        "source": row.source,
        "place": row.place,
        "occurred_at": utc(row.occurred_at),
        "appended_at": utc(row.appended_at),
        "provider": row.provider,
        "model": row.model,
        "operation": row.operation,
        "context": dict(row.context),
        "pricing": row.pricing,
        "price_revision": row.price_revision,
        "known_from": row.known_from and utc(row.known_from),
        "currency": row.currency if row.amount_pico is not None else None,
        "amount": None if row.amount_pico is None else format_amount(row.amount_pico),
        "unmetered_reason": row.unmetered_reason or None,
        "reported_amount": None if row.reported_amount is None else plain(row.reported_amount),
        "reported_currency": row.reported_currency or None,
        "usage": None if recomputed is None else usage_json(recomputed.usage),
        "computed_revision": row.computed_revision,
        "recomputed": None if recomputed is None else charge_json(recomputed, is_stored=True),
        "is_equal": row.is_equal,
    }


def _print(row: Explained) -> None:
    known = f", known since {utc(row.known_from)}" if row.known_from else ""
    click.echo(printable(f"{row.event_id} of {row.tenant}, from {row.source}: {_charge(row)}"))
    click.echo(printable(f"  {row.provider} {row.model}".rstrip() + f", {row.operation or 'no operation'}"))
    if row.context:
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row.context.items())
        click.echo(printable(f"  {said}"))
    click.echo(f"  happened {utc(row.occurred_at)}, received {utc(row.appended_at)} as {row.place}")
    click.echo(f"  prices of revision {row.price_revision}{known}")
    if row.reported_amount is not None and (row.recomputed is None or row.recomputed.computed is None):
        cost = f"{plain(row.reported_amount)} {row.reported_currency}"
        click.echo(printable(f"  the vendor reports {cost}, which is not billed"))
    if row.recomputed is None:
        click.echo(printable(f"  no quantities, nothing to compute: {row.unmetered_reason}"))
        return
    for text, line in zip_longest(charge_lines(row.recomputed), row.recomputed.lines):
        rounded = f" (rounding {exact_text(line.rounding)})" if line and line.rounding else ""
        click.echo(f"    {text}{rounded}")
        for price in filter(None, (line.price, line.percent) if line else ()):
            click.echo(printable(f"      {_row(price)}"))
    with_prices = "" if row.computed_revision == row.price_revision else f" with revision {row.computed_revision}"
    click.echo(
        f"  computed again{with_prices}: {amount_text(row.recomputed)}: " + ("equal" if row.is_equal else "NOT EQUAL")
    )


def _charge(row: Explained) -> str:
    return row.pricing if row.amount_pico is None else f"{format_amount(row.amount_pico)} {row.currency}"


def _row(price: Price) -> str:
    from meterstream.schema.price_line import condition_text

    whose = f" for {price.tenant}" if price.tenant is not None else ""
    change = f", {price.percent} % on the common rate" if price.percent is not None else ""
    name = f", for the {price.match} {price.model!r}" if price.match != "exact" else f", for {price.model!r}"
    calls = f", {condition}" if (condition := condition_text(price, with_match=False)) else ""
    return (
        f"price {price.price_id}{whose}{name}{change}{calls}: from {utc(price.valid_from)} on, known since "
        f"{utc(price.known_from)} (revision {price.revision}), {price.source}"
    )
