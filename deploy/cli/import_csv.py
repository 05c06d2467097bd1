"""`meterstream import csv FILE --map MAP`: rows of a table become events of usage.backfill."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.text import counted, printable
from meterstream.schema.money import format_amount

if TYPE_CHECKING:
    from meterstream.deploy.intake.csv_import import DryRun
    from meterstream.producers.csv_map import CsvMap
    from meterstream.schema.settings import Settings


@click.group("import")
def import_group() -> None:
    """Bring in usage that was recorded elsewhere."""


@import_group.command("csv")
@click.argument("file", metavar="FILE")
@click.option(
    "--map", "map_path", type=click.Path(path_type=Path), required=True, help="Which column is what, in YAML."
)
@click.option("--dry-run", is_flag=True, help="Send nothing: show the first events, counts, sums and the cost.")
@click.option("--again", is_flag=True, help="Send a file again that has been imported; nothing counts twice.")
def import_csv(file: str, map_path: Path, dry_run: bool, again: bool) -> int:
    """Send the rows of FILE, plain or gzip, to usage.backfill as events; - reads standard input.

    docs/import.md has the map. Run it again after an interruption: it goes on where it stopped. Bad rows are named and
    not sent, and the exit code is 1 then. The same row counts once, however often it is imported within 45 days.
    """
    from meterstream.deploy.cli.sending import report, send_file
    from meterstream.deploy.intake import csv_import
    from meterstream.producers import csv_map
    from meterstream.producers.csv_events import CsvRows
    from meterstream.producers.publish import PublishPolicy
    from meterstream.schema.settings import Settings
    from meterstream.schema.topics import BACKFILL

    settings = Settings.load()
    mapping = csv_map.load(map_path)
    if dry_run:
        return _dry_run(settings, file, mapping)
    rows = CsvRows(mapping, file, csv_import.judge(datetime.now(UTC)))
    policy = PublishPolicy(topic=BACKFILL)
    published = send_file(settings, file, policy, again=again, form=rows, noun="row", purpose=f"csv {mapping.digest}")
    report(published, policy, "row")
    return 1 if published.counts.refused else 0


def _dry_run(settings: Settings, file: str, mapping: CsvMap) -> int:
    from meterstream.deploy.intake import csv_import
    from meterstream.deploy.pricing.dry_rating import prices_of_raters

    book = event_loop.run(prices_of_raters(settings))
    found = csv_import.dry_run(file, mapping, book, datetime.now(UTC))
    _print(found, file)
    return 1 if found.refused or found.conflicts else 0


def _print(found: DryRun, file: str) -> None:
    from meterstream.deploy.intake.csv_import import FIRST_SHOWN

    for value in found.first[:FIRST_SHOWN]:
        click.echo(printable(value.decode()))
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(found.statuses.items()))
    click.echo(f"{counted(found.rows, 'row')} read, {counted(found.statuses.total(), 'event')}: {statuses or 'none'}")
    for unit, total in sorted(found.usage.items()):
        click.echo(f"  {total:,f} {unit}")
    for currency, amount in sorted(found.amounts_pico.items()):
        click.echo(f"  {format_amount(amount)} {currency} at the prices of now")
    if found.repeated:
        click.echo(f"{counted(found.repeated, 'row')} with the id and content of an earlier row: counted once")
    if found.conflicts:
        click.echo(
            f"{counted(found.conflicts, 'row')} with the id of an earlier row and other content: would be rejected as "
            "id_conflict; name more columns in `key`, or write `id: row`",
            err=True,
        )
    for refused in found.refused.values():
        rows = ", ".join(map(str, refused.rows)) + (", ..." if refused.count > len(refused.rows) else "")
        click.echo(
            f"{printable(file)}: {counted(refused.count, 'row')} refused ({rows}): {printable(refused.problem)}",
            err=True,
        )
    click.echo("nothing was sent")
