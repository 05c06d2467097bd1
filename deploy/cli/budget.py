"""`meterstream budget add`, `ls`, `rm`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from meterstream.deploy import event_loop
from meterstream.deploy.cli.settings import resolved
from meterstream.deploy.cli.text import never_seen, printable, utc

if TYPE_CHECKING:
    from meterstream.deploy.live.budgets import BudgetRow, Changed, Spent
    from meterstream.schema.budget import Budget

OPTIONS: Final = {
    "name": "NAME",
    "tenant": "--tenant",
    "amount": "--amount",
    "currency": "--currency",
    "period": "--period",
    "time_zone": "--zone",
    "week_start": "--week-start",
    "anchor_day": "--anchor-day",
    "thresholds": "--threshold",
    "project_id": "--project",
    "user_id": "--user",
    "api_key_id": "--api-key",
    "provider": "--provider",
    "model": "--model",
}
"""Field of a budget -> what sets it here. All are given as text, so that one check names every mistake at once."""

SCOPE_WORDS: Final = {
    "project_id": "project", "user_id": "user", "api_key_id": "API key", "provider": "provider", "model": "model",
}  # fmt: skip
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@click.group()
def budget() -> None:
    """Add, list and remove budgets that raise alerts.

    A budget belongs to one tenant. Everything of a tenant is counted in one place, one event after the other, so
    its budgets are exact and an alert names the event that reached the level. Tenants are counted side by side, on
    as many machines as there are: a sum over all of them is never exact at any moment, so there is no budget without
    a tenant. For such a sum ask Postgres (meter.spend_by_model).
    """


@budget.command()
@click.argument("name")
@click.option("--tenant", help="Whose; there is none without: see `meterstream budget --help`.")
@click.option("--amount", help="Plain decimal text, such as 500 or 0.25.")
@click.option("--currency", help="Such as USD; what is charged in others is not counted.")
@click.option("--period", metavar="[day|week|month]", help="Default: month.")
@click.option("--zone", "time_zone", help="IANA name, such as Europe/Berlin. Default: the tenant's, else UTC.")
@click.option("--week-start", help="Weekday on which a week begins. Default: monday.")
@click.option("--anchor-day", help="Day on which a month begins; its last where it is shorter. Default: 1.")
@click.option(
    "--threshold", "thresholds", multiple=True, help="Percent that raises an alert; repeat. Default: 50, 80, 100."
)
@click.option("--project", "project_id", help="Count only this project.")
@click.option("--user", "user_id", help="Count only this user.")
@click.option("--api-key", "api_key_id", help="Count only this API key.")
@click.option("--provider", help="Count only this provider.")
@click.option("--model", help="Count only this model.")
def add(**given: Any) -> None:
    """Add budget NAME of a tenant, or a new version of it.

    The same again changes nothing. A new version raises its alerts anew; where amount or thresholds are all that
    changed, what was spent stays counted, else counting begins now.
    """
    from meterstream.deploy.live import budgets

    fields = {name: value for name, value in given.items() if value not in (None, ())}
    for name in ("week_start", "anchor_day"):
        if name in fields:
            fields[name] = _whole(fields[name])
    if "thresholds" in fields:
        fields["thresholds"] = _thresholds(fields["thresholds"])
    with _in_options():
        budgets.check(fields)
        changed = event_loop.run(budgets.add(resolved("kafka_bootstrap", "postgres_admin_dsn"), fields))
    _report(changed, "added")


@budget.command("rm")
@click.argument("name")
@click.option("--tenant", required=True)
def remove(name: str, tenant: str) -> None:
    """Remove budget NAME of a tenant: it counts nothing and raises nothing from now on.

    Its versions and the alerts that it raised stay on record.
    """
    from meterstream.deploy.live import budgets

    _report(event_loop.run(budgets.remove(resolved("kafka_bootstrap", "postgres_admin_dsn"), tenant, name)), "removed")


@budget.command("ls")
@click.option("--tenant")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_budgets(tenant: str | None, as_json: bool) -> None:
    """List budgets and where they stand."""
    from meterstream.deploy.live import budgets

    settings = resolved("postgres_reader_dsn")
    found = event_loop.run(budgets.list_budgets(settings, tenant))
    if as_json:
        click.echo(json.dumps([_as_json(row) for row in found]))
    elif found:
        click.echo("\n\n".join("\n".join(described(row)) for row in found))
    elif tenant is not None and not event_loop.run(budgets.has_been_seen(settings, tenant)):
        click.echo(never_seen(tenant))
    else:
        whose = "there is no budget" if tenant is None else f"tenant {printable(tenant)} has no budget"
        click.echo(f"{whose}; `meterstream budget add --help` says how to make one")


@contextmanager
def _in_options() -> Iterator[None]:
    """Names mistakes by the options that were given."""
    from meterstream.schema.errors import BudgetInvalid

    try:
        yield
    except BudgetInvalid as error:
        lines = [_named(problem) for problem in str(error).splitlines()]
        raise BudgetInvalid("nothing was changed:" + "".join(f"\n  - {line}" for line in lines)) from error


def _named(problem: str) -> str:
    field, _, said = problem.partition(": ")
    name = field.partition(".")[0]
    if (name, said) == ("tenant", "is missing"):
        said = "is missing; `meterstream budget --help` says why it must be given"
    return f"{OPTIONS.get(name, name)}: {printable(said)}"


def _whole(text: str) -> int | str:
    """The number, or the text as it is where it is none: the check then says so."""
    if text.lower() in WEEKDAYS:
        return WEEKDAYS.index(text.lower()) + 1
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text


def _thresholds(texts: tuple[str, ...]) -> list[int | str]:
    """In ascending order, whatever the order on the command line."""
    percents = [_whole(text.removesuffix("%")) for text in texts]
    return sorted(percents, key=lambda percent: percent if isinstance(percent, int) else 0)


def _report(changed: Changed, verb: str) -> None:
    budget = changed.budget
    what = f"budget {budget.name} of {printable(budget.tenant)}"
    if changed.is_new:
        click.echo(f"{what}: version {budget.version} {verb} and published")
    else:
        click.echo(f"{what}: nothing changed, version {budget.version} says the same; published")


# ------------------------------------------------------------------------------------------ what is shown


def described(row: BudgetRow) -> list[str]:
    """A budget in plain words, one statement a line."""
    budget = row.budget
    lines = [
        f"{printable(budget.tenant)}  {budget.name}  (version {budget.version})",
        f"  {_amount(budget.amount)} {budget.currency} {_period(budget)}, alerts at {_percents(budget.thresholds)}",
    ]
    scope = [f"{word} {printable(value)}" for field, word in SCOPE_WORDS.items() if (value := getattr(budget, field))]
    if scope:
        lines.append(f"  counts only {', '.join(scope)}")
    lines += _state(budget, row.spent) if row.spent else ["  nothing has been counted since this version was made"]
    if row.behind_since:
        lines.append(
            f"  behind: what was priced since {utc(row.behind_since, 'milliseconds')} is not counted yet; "
            "`meterstream status` says whether the aggregator runs"
        )
    return lines


def _period(budget: Budget) -> str:
    begins = ""
    if budget.period == "week":
        begins = f" from {WEEKDAYS[budget.week_start - 1].capitalize()}"
    elif budget.period == "month" and budget.anchor_day != 1:
        begins = f" from day {budget.anchor_day}"
    return f"a {budget.period}{begins} ({budget.time_zone})"


def _state(budget: Budget, spent: Spent) -> list[str]:
    reached = f"; reached {_percents(spent.reached)}" if spent.reached else ""
    known = "at least " if spent.provisional else ""
    at_most = "at most " if spent.provisional else ""
    left = (
        f"{at_most}{_amount(spent.remaining)} {budget.currency} left"
        if spent.remaining >= 0
        else f"{known}{_amount(-spent.remaining)} {budget.currency} too much"
    )
    lines = [f"  spent {known}{_amount(spent.spent)} {budget.currency}, {known}{spent.percent} %; {left}{reached}"]
    if spent.is_over:
        lines.append(f"  that was until {utc(spent.resets_at)}; nothing has come since the new period began")
    else:
        lines.append(f"  begins at zero again at {utc(spent.resets_at)}")
    if spent.previous:
        known = "at least " if spent.previous.provisional else ""
        lines.append(
            f"  the {budget.period} before, until {utc(spent.previous.end)}: spent {known}"
            f"{_amount(spent.previous.spent)} {budget.currency}, late events included"
        )
    if spent.provisional:
        since = f"before {utc(spent.counts_since)}" if spent.counts_since else "before"
        lines.append(f"  provisional in this period: what came {since} may not all be counted in; Postgres has it")
    return lines


def _percents(percents: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, percents))} %"


def _amount(amount: Decimal) -> str:
    from meterstream.schema.money import format_amount, to_pico

    return format_amount(to_pico(amount))


def _as_json(row: BudgetRow) -> dict[str, object]:
    budget, spent = row.budget, row.spent
    definition = budget.model_dump(exclude={"removed"}) | {
        "amount": _amount(budget.amount),
        "created_at": utc(row.created_at),
    }
    state = spent and {
        "spent": _amount(spent.spent),
        "remaining": _amount(spent.remaining),
        "percent": str(spent.percent),
        "reached": spent.reached,
        "provisional": spent.provisional,
        "counts_since": spent.counts_since and utc(spent.counts_since),
        "period_start": utc(spent.period_start),
        "resets_at": utc(spent.resets_at),
        "is_over": spent.is_over,
        "previous": spent.previous
        and {
            "spent": _amount(spent.previous.spent),
            "provisional": spent.previous.provisional,
            "start": utc(spent.previous.start),
            "end": utc(spent.previous.end),
        },
    }
    return definition | {"state": state, "behind_since": row.behind_since and utc(row.behind_since)}
