"""`meterstream price`: the price book."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.moment import Moment
from meterstream.deploy.cli.number import Whole
from meterstream.deploy.cli.price_check import check
from meterstream.deploy.cli.price_diff import diff
from meterstream.deploy.cli.price_show import show
from meterstream.deploy.cli.price_text import price_json, terms_text
from meterstream.deploy.cli.settings import resolved
from meterstream.deploy.cli.text import utc
from meterstream.schema.catalog import REPORTED_COST

if TYPE_CHECKING:
    from meterstream.deploy.pricing.prices import Added
    from meterstream.schema.catalog import Price
    from meterstream.schema.price_line import PriceLine

PLAIN_WIDTH = 200
"""Columns of a table that goes into a file or a pipe: wide enough to cut nothing off."""


@click.group()
def price() -> None:
    """List and add prices, and say what events would cost."""


price.add_command(check)
price.add_command(diff)
price.add_command(show)


@price.command("ls")
@click.option("--provider")
@click.option("--model", help="What is for this model: of just this name, of a prefix or of a pattern.")
@click.option("--tenant", help="Its own prices; with --at also the global ones where it has none.")
@click.option("--at", type=Moment(), help="Only what is in force then. Without it: every dated price.")
@click.option("--as-known-at", type=Moment(), help="Leave out what was not known yet.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_prices(
    provider: str | None,
    model: str | None,
    tenant: str | None,
    at: datetime | None,
    as_known_at: datetime | None,
    as_json: bool,
) -> None:
    """List prices. Times are UTC, as 2026-01-31 or 2026-01-31T17:00:00Z."""
    from meterstream.deploy.pricing import listing

    wanted = listing.Filter(provider=provider, for_model=model, tenant=tenant, at=at, as_known_at=as_known_at)
    settings = resolved("postgres_reader_dsn")
    found = event_loop.run(listing.list_prices(settings, wanted))
    if as_json:
        click.echo(json.dumps([price_json(row) for row in found]))
    elif found:
        _print_table(found)
    else:
        click.echo(event_loop.run(listing.why_none(settings, wanted)))


@price.command()
@click.option("--file", "file", type=click.Path(path_type=Path, dir_okay=False), help="A price file: docs/prices.md.")
@click.option("--provider")
@click.option("--model", help="Left out: the provider's price for what has no model.")
@click.option("--unit", help="What is counted, such as input_tokens.")
@click.option("--rate", help='Plain decimal text, or "withdrawn": from then on there is no price.')
@click.option("--per", type=Whole(1), help="How many units the rate is for, such as 1000000.")
@click.option("--currency", help="Such as USD.")
@click.option("--valid-from", help="The first moment: 2026-01-31 (midnight UTC) or 2026-01-31T17:00:00Z.")
@click.option("--source", help="The page or contract that says so.")
@click.option("--tenant", help="Only for this tenant.")
@click.option("--match", type=click.Choice(["exact", "prefix", "pattern"]), help="What --model is; left out: exact.")
@click.option("--service-tier", help="Only for calls of this tier: standard, batch, flex, priority.")
@click.option("--region", help="Only for calls in this region.")
@click.option("--processing", help="Only for calls whose tag `processing` says this.")
@click.option("--time-window", help='Only at these hours: "mon-fri 16:30-00:30 Asia/Shanghai".')
@click.option("--above", type=Whole(1), help="Only for calls with more input tokens (or --above-unit) than this.")
@click.option("--above-unit", help="What --above counts; left out: input_tokens.")
@click.option("--percent", help="With --tenant, in place of --rate: -10 is a tenth less than the common rate.")
@click.option("--bill", type=click.Choice(["reported", "computed"]), help="Which cost is billed where one is reported.")
@click.option("--reason", help="Why, for the revision.")
def add(file: Path | None, reason: str | None, **parts: Any) -> None:
    """Add one price, or those of a file, as one revision; nothing is overwritten.

    A price holds until the next one of the same tenant, provider, model and unit begins. One with the same
    beginning as another corrects it: the old row stays and can be listed with --as-known-at.
    """
    from meterstream.deploy.pricing import prices

    bill = parts.pop("bill")
    if bill is None:
        lines = _lines(file, parts, {name: parts.pop(name) for name in ("model", "tenant", *_OPTIONAL)})
    else:
        lines = [_billing(bill, {"file": file, **parts})]
    why = reason or (f"price file {file.name}" if file else f"price add: {lines[0]}")
    _report(event_loop.run(prices.add(resolved("kafka_bootstrap", "postgres_admin_dsn"), lines, why)))


@price.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--reason", help="Why, for the revision.")
def import_files(files: tuple[Path, ...], reason: str | None) -> None:
    """Add the prices of one or more files as one revision, or none of them; `price diff` says before what is new."""
    from meterstream.deploy.pricing import prices
    from meterstream.schema import price_file
    from meterstream.schema.errors import PriceFileInvalid, UsageError

    try:
        lines = price_file.load(*files)
    except PriceFileInvalid as error:
        raise UsageError(str(error)) from error
    why = reason or f"price import: {', '.join(file.name for file in files)}"
    _report(event_loop.run(prices.add(resolved("kafka_bootstrap", "postgres_admin_dsn"), lines, why)))


@price.command()
@click.option("--provider", required=True)
@click.option("--model", default="", help="Left out: the provider's price for what has no model.")
@click.option("--valid-from", required=True, type=Moment(), help="From then on there is no price.")
@click.option("--source", required=True, help="The page or contract that says so.")
@click.option("--tenant", help="This tenant's own prices; left out: the common ones.")
@click.option("--unit", help="Only this unit; left out: all.")
@click.option("--match", type=click.Choice(["exact", "prefix", "pattern"]), help="Only prices whose --model is this.")
@click.option("--service-tier", help="Only those of this tier; so with the next ones.")
@click.option("--region")
@click.option("--processing")
@click.option("--time-window", help="As `price ls` writes it.")
@click.option("--above", type=Whole(1))
@click.option("--reason", help="Why, for the revision.")
def retire(
    provider: str, model: str, valid_from: datetime, source: str, tenant: str | None, reason: str | None, **only: Any
) -> None:
    """End prices from a moment on; nothing is overwritten: each gets a withdrawn row.

    What a tenant's own or a more special price covered goes back to the next price that fits the call; without
    one, events after that moment are unpriced.
    """
    from meterstream.deploy.pricing import prices

    chosen = {name: value for name, value in only.items() if value is not None}
    wanted = prices.Retirement(provider, model, valid_from, source, tenant, chosen)
    why = reason or f"price retire: {provider} {model}".rstrip()
    retired = event_loop.run(
        prices.retire(resolved("kafka_bootstrap", "postgres_admin_dsn", "postgres_reader_dsn"), wanted, why)
    )
    _report(retired.added)
    for row in retired.later:
        click.echo(
            f"still to come: {row.unit} has a price of its own from {utc(row.valid_from)} on; retire it then too"
        )


@price.command()
def schema() -> None:
    """Print the JSON Schema of price files, for editors."""
    from meterstream.schema.json_schema import text_of

    click.echo(text_of("price-file.v1.schema.json"), nl=False)


@price.command()
def load() -> None:
    """Load the prices that come with this version, and publish all.

    Safe to repeat. A price that you have added for the same beginning stays as you set it.
    """
    from meterstream.deploy.pricing import prices

    _report(event_loop.run(prices.load_shipped(resolved("kafka_bootstrap", "postgres_admin_dsn"))))


_OPTIONAL = ("match", "service_tier", "region", "processing", "time_window", "above", "above_unit", "percent")


def _lines(file: Path | None, parts: dict[str, Any], optional: dict[str, Any]) -> list[PriceLine]:
    from meterstream.schema import price_file
    from meterstream.schema.catalog import ALL_UNITS
    from meterstream.schema.errors import PriceFileInvalid, UsageError

    given = [name for name, value in {**parts, **optional}.items() if value is not None]
    if file is not None and given:
        raise UsageError(f"--file says everything: leave out {_options(given)}")
    if optional["model"] == "":
        raise UsageError("--model is empty: leave it out for the provider's price of what has no model")
    if optional["percent"] is not None:
        if parts["rate"] is not None:
            raise UsageError("--percent is on the common rate: leave out --rate")
        # A percent has neither rate nor currency of its own; without a unit it is for all of them.
        defaults = {"unit": ALL_UNITS, "rate": "0", "per": 1, "currency": "USD"}
        parts = parts | {name: value for name, value in defaults.items() if parts[name] is None}
    missing = [name for name, value in parts.items() if value is None]
    if file is None and missing:
        raise UsageError(f"a price needs {_options(missing)} too; or give --file FILE")
    try:
        if file:
            return price_file.load(file)
        chosen = {name: value for name, value in optional.items() if value is not None}
        return [price_file.single(**{"model": "", **parts, **chosen})]
    except PriceFileInvalid as error:
        raise UsageError(str(error)) from error


def _billing(bill: str, parts: dict[str, Any]) -> PriceLine:
    from meterstream.schema import price_file
    from meterstream.schema.errors import PriceFileInvalid, UsageError

    said = {name: parts.pop(name) for name in ("provider", "valid_from", "source")}
    tenant = parts.pop("tenant")
    if given := [name for name, value in parts.items() if value is not None]:
        raise UsageError(f"--bill is for all calls of a provider: leave out {_options(given)}")
    if missing := [name for name, value in said.items() if value is None]:
        raise UsageError(f"--bill needs {_options(missing)} too")
    try:
        return price_file.billing(bill=bill, tenant=tenant, **said)
    except PriceFileInvalid as error:
        raise UsageError(str(error)) from error


def _options(names: list[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _report(added: Added) -> None:
    if added.rows:
        click.echo(f"revision {added.revision}: {_prices(added.rows)} added and published")
    else:
        click.echo(f"nothing new; revision {added.revision} published")
    if added.kept:
        click.echo(f"{_prices(added.kept)} of this version left out: you have set others for the same beginnings")


def _prices(count: int) -> str:
    return f"{count} {'price' if count == 1 else 'prices'}"


def _terms(row: Price) -> tuple[str, str]:
    """A rate has a column of its own, so that its digits stand below each other."""
    if row.withdrawn or row.percent is not None or row.unit == REPORTED_COST:
        return terms_text(row), ""
    return row.rate, f"{row.currency} / {row.per:,}"


def _print_table(found: list[Price]) -> None:
    from rich.console import Console
    from rich.table import Table

    from meterstream.schema.price_line import condition_text

    table = Table("provider", "model", "unit", box=None, header_style="bold", pad_edge=False)
    table.add_column("rate", justify="right")
    for title in ("", "for", "valid from", "tenant", "rev"):
        table.add_column(title)
    for row in found:
        table.add_row(
            row.provider,
            row.model,
            row.unit,
            *_terms(row),
            condition_text(row),
            utc(row.valid_from).removesuffix("T00:00:00Z"),
            row.tenant or "",
            str(row.revision),
        )
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(table)
