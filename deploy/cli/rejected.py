"""`meterstream rejected` and `meterstream replay`: what could not be metered, and what is done about it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.moment import Moment
from meterstream.deploy.cli.number import Whole
from meterstream.deploy.cli.text import counted, printable, utc

if TYPE_CHECKING:
    from meterstream.deploy.intake.rejected import Rejection, Wanted
    from meterstream.deploy.intake.replay import Plan, Usage
    from meterstream.producers.edits import Edit

NOTE_LENGTH_MAX = 500
UNIT_SHOWN_MAX = 40


def _which(command: Any) -> Any:
    """The options that say which rejected events."""
    options = (
        click.option("--reason", help="Only with this reason."),
        click.option("--tenant", help="Only those that say they are this tenant's."),
        click.option("--since", type=Moment(), help="Only those that arrived from then on."),
        click.option("--limit", type=Whole(1, 100_000), default=1_000, show_default=True, help="At most so many."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _myself() -> str:
    """The user of the operating system and the machine."""
    import os
    import socket
    from pwd import getpwuid

    try:
        user = getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in a container
        user = f"user {os.geteuid()}"
    return f"{user}@{socket.gethostname()}"


_by = click.option(
    "--by", default=_myself, metavar="NAME", show_default="user and machine", help="Who does this; kept with it."
)


@click.group()
def rejected() -> None:
    """Look at rejected events, and settle what nothing is to be done about."""


@rejected.command("ls")
@_which
@click.option("--all", "with_settled", is_flag=True, help="Also those that were replayed or skipped.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object a line.")
def list_rejected(with_settled: bool, as_json: bool, **which: Any) -> None:
    """List rejected events that are not settled yet, oldest first."""
    from meterstream.deploy.intake.rejected import find
    from meterstream.schema.settings import Settings

    found = event_loop.run(find(Settings.load(), _wanted((), with_settled=with_settled, **which)))
    for each in found:
        click.echo(json.dumps(_fields(each)) if as_json else _line(each))
    if not as_json:
        click.echo(
            f"{counted(len(found), 'event')}"
            + (": there may be more, see --limit" if len(found) == which["limit"] else "")
        )


@rejected.command()
@click.argument("place")
@click.option("--body", "is_body", is_flag=True, help="Its bytes alone, as they were sent.")
def show(place: str, is_body: bool) -> None:
    """Show the rejected event at PLACE, such as usage.raw/0/12/3."""
    from meterstream.deploy.intake.rejected import original
    from meterstream.schema.errors import UsageError
    from meterstream.schema.settings import Settings

    settings = Settings.load()
    each = _one(settings, place)
    there = event_loop.run(original(settings, each)) if is_body or not each.is_whole else (each.value, ())
    if is_body:
        if there is None:
            raise UsageError(f"{place}: neither the database nor the topic holds all of it any more")
        click.get_binary_stream("stdout").write(there[0] + b"\n")
        return
    for name, value in _fields(each).items():
        if name != "value" and value is not None:
            click.echo(f"{name:<14} {printable(str(value))}")
    body = (there or (each.value, ()))[0]
    click.echo(f"{'value':<14} {printable(body.decode('utf-8', 'backslashreplace'))}")


@rejected.command()
@click.argument("places", nargs=-1, metavar="[PLACE]...")
@_which
@click.option("--note", required=True, help="Why nothing is to be done about them.")
@_by
def skip(places: tuple[str, ...], note: str, by: str, **which: Any) -> int:
    """Settle rejected events without sending them again; that is written down, and they stay in the table."""
    from meterstream.deploy.intake.rejected import find, settle
    from meterstream.schema.settings import Settings

    settings = Settings.load()
    found = event_loop.run(find(settings, _some(places, **which)))
    found = [each for each in found if each.settlement is None]
    if not found:
        click.echo("no rejected event fits that is not settled already")
        return 1
    event_loop.run(settle(settings, found, "skipped", _note(note), _note(by)))
    click.echo(f"skipped {counted(len(found), 'event')}")
    return 0


@click.command()
@click.argument("places", nargs=-1, metavar="[PLACE]...")
@_which
@click.option(
    "--rename",
    "renames",
    multiple=True,
    metavar="OLD=NEW",
    help="Give a field another name first; each event keeps its own value: "
    "data.usage.input_token=data.usage.input_tokens. Repeatable.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a field first, to the same in all: data.model=gpt-4o. Repeatable.",
)
@click.option("--unset", "unsets", multiple=True, metavar="FIELD", help="Take a field out first. Repeatable.")
@click.option(
    "--yes", "is_sent", is_flag=True, help="Really send them; without it only what would become of them is shown."
)
@click.option("--note", default="", help="Why; kept with who and when. Needed with --yes.")
@_by
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def replay(
    places: tuple[str, ...],
    renames: tuple[str, ...],
    sets: tuple[str, ...],
    unsets: tuple[str, ...],
    is_sent: bool,
    note: str,
    by: str,
    as_json: bool,
    **which: Any,
) -> int:
    """Send rejected events again, after what was wrong has been mended.

    Shows what would become of each, by the prices of now, its quantities before and after, and by how much the charges
    would grow; --yes does it. Fields are renamed first, then set, then taken out. An event keeps its id, so twice is
    charged once. Exits with 1 where some stay rejected.
    """
    from meterstream.deploy.intake import replay as replays
    from meterstream.producers.edits import parse_rename, parse_set, parse_unset
    from meterstream.schema.errors import UsageError
    from meterstream.schema.settings import Settings

    if is_sent and not note:
        raise UsageError("--yes needs --note: why they are sent again is kept with who and when")
    edits = [*map(parse_rename, renames), *map(parse_set, sets), *map(parse_unset, unsets)]
    settings = Settings.load()
    planned = event_loop.run(replays.plan(settings, _some(places, **which), edits))
    sent = event_loop.run(replays.send(settings, planned, _note(note), _note(by), edits)) if is_sent else None
    if as_json:
        click.echo(json.dumps({"sent": sent, **_plan_fields(planned)}))
    else:
        _print_plan(planned, sent)
        _warn_of_sets(planned, edits)
    return 1 if any(event.topic is None and event.outcome != replays.IS_CHARGED for event in planned.events) else 0


def _print_plan(planned: Plan, sent: int | None) -> None:
    from meterstream.schema.money import format_amount

    for event in planned.events:
        amount = "" if event.amount_pico is None else f"{format_amount(event.amount_pico)} {event.currency}, "
        change = _change(event.usage_before, event.usage_after)
        to = f"{amount}to {event.topic}; {change}" if event.topic else event.detail
        click.echo(f"{event.rejection.place!s:<28} {event.rejection.reason:<18} -> {event.outcome}: {printable(to)}")
    click.echo(
        ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(planned.outcomes.items())) or "nothing fits"
    )
    for currency, amount_pico in sorted(planned.amounts_pico.items()):
        click.echo(f"charges grow by {format_amount(amount_pico)} {currency}")
    if sum(event.topic is not None for event in planned.events) > 1:
        click.echo(f"in all: {printable(_change(planned.usage_before, planned.usage_after))}")
    if sent is not None:
        click.echo(f"sent {counted(sent, 'event')}")
    elif any(event.topic for event in planned.events):
        click.echo("nothing was sent: add --yes and --note to do it")


def _change(before: Usage, after: Usage) -> str:
    return f"{_quantities(before)} -> {_quantities(after)}"


def _quantities(usage: Usage) -> str:
    return ", ".join(f"{unit[:UNIT_SHOWN_MAX]} {quantity:,}" for unit, quantity in usage.items()) or "no quantities"


def _warn_of_sets(planned: Plan, edits: Sequence[Edit]) -> None:
    """A quantity that is set is the same for all, which is hardly ever meant."""
    count = sum(event.topic is not None for event in planned.events)
    for edit in edits:
        if count > 1 and edit.path[:2] == ("data", "usage") and not edit.takes_out and not edit.renamed:
            name = ".".join(edit.path)
            click.echo(
                f"--set {name} gives all {count:,} events the same quantity: --rename OLD={name} keeps each one's own"
            )


def _plan_fields(planned: Plan) -> dict[str, Any]:
    from meterstream.schema.money import format_amount

    return {
        "outcomes": dict(planned.outcomes),
        "amounts": {currency: format_amount(pico) for currency, pico in planned.amounts_pico.items()},
        "events": [
            {
                "place": str(event.rejection.place),
                "reason": event.rejection.reason,
                "outcome": event.outcome,
                "detail": event.detail,
                "topic": event.topic,
                "amount": None if event.amount_pico is None else format_amount(event.amount_pico),
                "currency": event.currency or None,
                "usage_before": _numbers(event.usage_before),
                "usage_after": _numbers(event.usage_after),
            }
            for event in planned.events
        ],
    }


def _numbers(usage: Usage) -> dict[str, int | str]:
    """Fractions as text, digit by digit."""
    return {unit: quantity if isinstance(quantity, int) else str(quantity) for unit, quantity in usage.items()}


def _some(places: tuple[str, ...], **which: Any) -> Wanted:
    """Refuses to take everything by mistake."""
    from meterstream.schema.errors import UsageError

    if not places and not any(which[name] for name in ("reason", "tenant", "since")):
        raise UsageError("say which: PLACE, --reason, --tenant or --since")
    return _wanted(places, **which)


def _wanted(
    places: tuple[str, ...],
    *,
    reason: str | None,
    tenant: str | None,
    since: datetime | None,
    limit: int,
    with_settled: bool = False,
) -> Wanted:
    from meterstream.deploy.intake.rejected import Place, Wanted
    from meterstream.schema.errors import UsageError
    from meterstream.schema.rejection import REASONS

    if reason is not None and reason not in REASONS:
        raise UsageError(f"{reason!r} is no reason: {', '.join(REASONS)}")
    return Wanted(
        reason=reason,
        tenant=tenant,
        since=since,
        limit=limit,
        with_settled=with_settled,
        places=[Place.parse(place) for place in places],
    )


def _one(settings: Any, place: str) -> Rejection:
    from meterstream.deploy.intake.rejected import Place, Wanted, find
    from meterstream.schema.errors import UsageError

    found = event_loop.run(find(settings, Wanted(places=[Place.parse(place)])))
    if not found:
        raise UsageError(f"nothing was rejected at {place}")
    return found[0]


def _note(note: str) -> str:
    return printable(note)[:NOTE_LENGTH_MAX]


def _line(each: Rejection) -> str:
    done = f" [{each.settlement.action}: {each.settlement.note}]" if each.settlement else ""
    who = f"tenant {each.tenant}: " if each.tenant else ""
    return f"{each.place!s:<28} {utc(each.appended_at):<27} {each.reason:<18} {printable(who + each.detail + done)}"


def _fields(each: Rejection) -> dict[str, Any]:
    settled = each.settlement
    return {
        "place": str(each.place),
        "appended_at": utc(each.appended_at),
        "reason": each.reason,
        "detail": each.detail,
        "tenant": each.tenant,
        "event_id": each.event_id,
        "value_length": each.value_length,
        "value": base64.b64encode(each.value).decode(),
        "settled": None
        if settled is None
        else {"action": settled.action, "at": utc(settled.at), "by": settled.by, "note": settled.note},
    }
