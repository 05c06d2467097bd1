"""`meterstream record`: one call that nobody has recorded, by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.moment import Moment
from meterstream.deploy.cli.text import printable, utc
from meterstream.schema.money import format_amount

if TYPE_CHECKING:
    from decimal import Decimal

_V = TypeVar("_V")


@click.command("record")
@click.option("--tenant", required=True, help="Whose usage it is.")
@click.option("--provider", required=True, help="Who is paid, such as openai.")
@click.option("--model", help="The model that answered; left out for calls without one.")
@click.option("--operation", required=True, help="Such as chat, embedding, sms.")
@click.option("--usage", multiple=True, required=True, metavar="UNIT=QUANTITY", help="May be given again.")
@click.option("--time", type=Moment(), help="When it ended: 2026-01-31T17:00:00Z. Left out: now.")
@click.option("--id", "event_id", help="What counts once by tenant and source. Left out: a new one.")
@click.option("--source", default="manual", show_default=True, help="Who says so.")
@click.option("--user", "user_id", help="Who made the call.")
@click.option("--project", "project_id", help="For which project.")
@click.option("--api-key", "api_key_id", help="With which API key: its id, never the key.")
@click.option("--region", help="Where it was answered, for prices that depend on it: US, eu-west-1.")
@click.option("--service-tier", help="batch, flex, priority; left out: standard.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="May be given again.")
@click.option("--dry-run", is_flag=True, help="Send nothing: show what it would cost.")
def record(
    tenant: str,
    provider: str,
    model: str | None,
    operation: str,
    usage: tuple[str, ...],
    time: datetime | None,
    event_id: str | None,
    source: str,
    tags: tuple[str, ...],
    dry_run: bool,
    **given: str | None,
) -> int:
    """Send one event, checked as the rater will: to usage.raw, or to usage.backfill where it is older than 35 days.

    Without --id each run is another event. To correct one that counts already is not this command's work.
    """
    from meterstream.deploy.intake import manual_entry
    from meterstream.producers.made_event import UsageFields
    from meterstream.schema.settings import Settings

    fields = UsageFields(**given, model=model, operation=operation, usage=_pairs("--usage", usage, _quantity))  # type: ignore[typeddict-item]
    fields["tags"] = _pairs("--tag", tags, str) or None
    if event_id == "":
        raise click.BadParameter("it is empty: leave it out, and one is made", param_hint="'--id'")
    now = datetime.now(UTC)
    entry = manual_entry.make(
        fields, tenant=tenant, provider=provider, source=source, event_id=event_id, time=time, now=now
    )
    settings = Settings.load()
    if dry_run:
        row = event_loop.run(manual_entry.price(settings, entry))
        cost = "" if row.amount_pico is None else f": {format_amount(row.amount_pico)} {row.currency}"
        click.echo(f"{row.pricing}{cost}, to {entry.topic}; nothing was sent")
        return 0
    event_loop.run(manual_entry.send(settings, entry))
    click.echo(f"{printable(entry.id)} of {utc(entry.time)} sent to {entry.topic} and confirmed")
    return 0


def _pairs(option: str, given: tuple[str, ...], read: Callable[[str], _V]) -> dict[str, _V]:
    found: dict[str, _V] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{text!r} has no name before a =: write name=value", param_hint=f"'{option}'")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param_hint=f"'{option}'")
        try:
            found[name] = read(value)
        except ValueError as error:
            raise click.BadParameter(f"{name}: {error}", param_hint=f"'{option}'") from error
    return found


def _quantity(text: str) -> Decimal:
    from meterstream.schema.numbers import plain_decimal
    from meterstream.schema.units import QUANTITY_PLACES_MAX

    if len(text.partition(".")[2]) > QUANTITY_PLACES_MAX:
        raise ValueError(f"{text[:40]!r} has more than {QUANTITY_PLACES_MAX} decimal places: round it")
    return plain_decimal(text)
