"""`meterstream price show`: one stored price with everything that is known of it; reads only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.price_text import price_json, terms_text
from meterstream.deploy.cli.settings import resolved
from meterstream.deploy.cli.text import printable, utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterstream.deploy.pricing.listing import Shown


@click.command()
@click.argument("price_id", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(price_id: int, as_json: bool) -> None:
    """Show one price by the id that charge lines name: for which calls, how long, since when known, and why."""
    from meterstream.deploy.pricing import listing

    shown = event_loop.run(listing.show(resolved("postgres_reader_dsn"), price_id))
    if as_json:
        click.echo(json.dumps(_as_json(shown)))
    else:
        for line in _lines(shown):
            click.echo(printable(line))


def _as_json(shown: Shown) -> dict[str, object]:
    return {
        **price_json(shown.price),
        "reason": shown.reason,
        "until": shown.until and utc(shown.until),
        "corrected_by": shown.corrected_by and price_json(shown.corrected_by),
    }


def _lines(shown: Shown) -> Iterator[str]:
    from meterstream.schema.price_line import condition_text

    price = shown.price
    yield f"price {price.price_id}: {price.provider} {price.model}".rstrip() + f" {price.unit}: {terms_text(price)}"
    yield f"  for {price.tenant or 'every tenant'}, {condition_text(price) or 'every call of this model'}"
    end = f"up to {utc(shown.until)}" if shown.until else "no end is known"
    yield f"  from {utc(price.valid_from)} on, {end}"
    yield f"  known since {utc(price.known_from)}, revision {price.revision}: {shown.reason}"
    yield f"  source: {price.source}" + (f", compared on {price.checked_on}" if price.checked_on else "")
    other = shown.corrected_by
    if other is not None:
        yield f"  corrected by price {other.price_id}, known since {utc(other.known_from)}: {terms_text(other)}"
