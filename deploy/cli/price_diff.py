"""`meterstream price diff`: what a price file says that the database does not; reads only."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.moment import Moment
from meterstream.deploy.cli.price_text import row_json, terms_text
from meterstream.deploy.cli.settings import resolved
from meterstream.deploy.cli.text import counted, printable

if TYPE_CHECKING:
    from meterstream.schema.catalog import Price
    from meterstream.schema.price_line import PriceLine


@click.command()
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Instead of the prices of this version.")
@click.option("--as-known-at", type=Moment(), help="Compare with what was known then.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def diff(file: Path | None, as_known_at: datetime | None, as_json: bool) -> int:
    """Say which prices of a file, or of this version, the database lacks (+) or has otherwise (~).

    Nothing is changed. Prices that only the database has are not named: a file takes nothing back. The exit code is 0
    when nothing differs, else 1.
    """
    from meterstream.deploy.pricing import listing
    from meterstream.schema import price_file
    from meterstream.schema.errors import PriceFileInvalid, UsageError

    try:
        lines = price_file.load(file) if file else price_file.shipped()
    except PriceFileInvalid as error:
        raise UsageError(str(error)) from error
    found = event_loop.run(listing.diff(resolved("postgres_reader_dsn"), lines, as_known_at))
    if as_json:
        click.echo(json.dumps([_as_json(line, row) for line, row in found]))
    else:
        for line, row in found:
            was = "" if row is None else f"{terms_text(row)} (revision {row.revision}) -> "
            click.echo(printable(f"{'+' if row is None else '~'} {line}: {was}{terms_text(line)}"))
        click.echo(f"{counted(len(found), 'price')} of {len(lines):,} {'differs' if len(found) == 1 else 'differ'}")
    return 1 if found else 0


def _as_json(line: PriceLine, row: Price | None) -> dict[str, object]:
    from meterstream.deploy.pricing import prices

    said = prices.as_row(line, 0, 0, line.valid_from)
    return {"file": row_json(said, is_stored=False), "stored": row and row_json(row, is_stored=True)}
