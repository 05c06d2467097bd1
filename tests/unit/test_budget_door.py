"""What the door of budgets refuses, and that it names every mistake at once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from meterstream.schema.budget import AMOUNT_MAX, Budget, Scope, checked
from meterstream.schema.errors import BudgetInvalid

GOOD: dict[str, Any] = {"tenant": "acme", "name": "all", "amount": "100", "currency": "USD"}


def problems(**fields: Any) -> list[str]:
    """Which fields the door names."""
    with pytest.raises(BudgetInvalid) as caught:
        checked(**(GOOD | fields))
    return [line.partition(":")[0].partition(".")[0] for line in str(caught.value).splitlines()]


def test_the_least_that_a_budget_needs() -> None:
    budget = checked(**GOOD)
    assert (budget.version, budget.period, budget.time_zone, budget.thresholds) == (1, "month", "UTC", (50, 80, 100))
    assert budget.amount_pico == 100 * 10**12
    assert budget.scope == Scope()


@pytest.mark.parametrize(
    "zone",
    [
        "Europe/Atlantis", "europe/berlin ", "", " UTC", "Europe", "../../etc/passwd", "/etc/localtime", "..", "\0",
        "Europe/../../../etc/passwd", "x" * 5000, "é", "zone.tab", "right/Europe/Berlin", "posix/Europe/Berlin",
        "localtime", "posixrules", "Factory", "+02:00", "CEST", 5, None,
    ],
)  # fmt: skip
def test_no_zone(zone: Any) -> None:
    assert problems(time_zone=zone) == ["time_zone"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_a_zone(zone: str) -> None:
    assert checked(**GOOD, time_zone=zone).time_zone == zone


@pytest.mark.parametrize(
    "amount",
    [
        "-1", "0", "-0", "NaN", "sNaN", "Infinity", "-Infinity", "", "ten", "1,5", 1.5, float("nan"), True, None, [],
        "1e13", str(AMOUNT_MAX + 1), "0.0000000000001", "1." + "0" * 29 + "1", "1." + "0" * 90 + "1",
        "99999999999.00000000000000000001", "9" * 500, 10**4000, "1e-999999999", "1_000", "+5", ".5", "5.", "1e3",
    ],
)  # fmt: skip
def test_no_amount(amount: Any) -> None:
    assert problems(amount=amount) == ["amount"]


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        ("٣", "'٣' is no decimal number: ARABIC-INDIC DIGIT THREE is a digit of another script, write 0 to 9"),
        ("5.１", "FULLWIDTH DIGIT ONE is a digit of another script"),
        (" 5", "' 5' is no decimal number: it begins or ends with a blank, remove it"),
        ("5\n", "begins or ends with a blank"),
        ("5\u00a0", "begins or ends with a blank"),
        ("ten", "'ten' is no decimal number: write it as 500 or 0.25"),
    ],
)
def test_why_it_is_no_amount(amount: str, reason: str) -> None:
    with pytest.raises(BudgetInvalid) as caught:
        checked(**(GOOD | {"amount": amount}))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("amount", "pico"),
    [("0.000000000001", 1), (AMOUNT_MAX, 10**24), (7, 7 * 10**12), ("1.50", 15 * 10**11), (Decimal("1E+3"), 10**15),
     ("999999999999.999999999999000000", 10**24 - 1)],
)  # fmt: skip
def test_an_amount_is_exact(amount: Any, pico: int) -> None:
    assert checked(**(GOOD | {"amount": amount})).amount_pico == pico


@pytest.mark.parametrize(
    "thresholds",
    [(), range(1, 31), (80, 50), (50, 50), (0,), (-5,), (1001,), (50.5,), ("50",), (True,), 50, "50", None],
)
def test_no_thresholds(thresholds: Any) -> None:
    assert set(problems(thresholds=thresholds)) == {"thresholds"}


def test_thresholds_at_the_bounds() -> None:
    assert checked(**GOOD, thresholds=[1, 1000]).thresholds == (1, 1000)
    assert len(checked(**GOOD, thresholds=list(range(1, 21))).thresholds) == 20


@pytest.mark.parametrize("field", ["project_id", "user_id", "api_key_id", "provider", "model"])
@pytest.mark.parametrize("value", ["", "x" * 257, "a\nb", "\x00", 5, "\ud800"])
def test_no_scope(field: str, value: Any) -> None:
    assert problems(**{field: value}) == [field]


@pytest.mark.parametrize("tenant", ["", "x" * 129, "a\nb", None, 5])
def test_no_tenant(tenant: Any) -> None:
    assert problems(tenant=tenant) == ["tenant"]


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "x" * 64, "ä", "a\n", None])
def test_no_name(name: Any) -> None:
    assert problems(name=name) == ["name"]


@pytest.mark.parametrize("currency", ["usd", "XXX", "US", "USDD", "", "USD\n", None])
def test_no_currency(currency: Any) -> None:
    assert problems(currency=currency) == ["currency"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"period": "day", "week_start": 2}, ["week_start"]),
        ({"period": "month", "week_start": 7}, ["week_start"]),
        ({"period": "week", "anchor_day": 2}, ["anchor_day"]),
        ({"period": "day", "anchor_day": 31, "week_start": 3}, ["week_start", "anchor_day"]),
        ({"period": "year"}, ["period"]),
        ({"period": "year", "anchor_day": 5, "week_start": 3}, ["period"]),
        ({"period": "week", "week_start": 8}, ["week_start"]),
        ({"period": "week", "week_start": 0}, ["week_start"]),
        ({"period": "month", "anchor_day": 32}, ["anchor_day"]),
        ({"version": 0}, ["version"]),
        ({"version": 1.5}, ["version"]),
        ({"colour": "red"}, ["colour"]),
    ],
)
def test_what_does_not_fit_together(fields: dict[str, Any], named: list[str]) -> None:
    assert problems(**fields) == named


def test_all_mistakes_are_named_at_once() -> None:
    assert problems(
        tenant="", name="/", version=0, amount="-1", currency="eur", period="day", time_zone="Mars/Base", week_start=3,
        anchor_day=9, thresholds=[100, 50], project_id="", user_id="\n", surplus=1,
    ) == [
        "tenant", "name", "version", "amount", "currency", "time_zone", "week_start", "anchor_day", "thresholds",
        "project_id", "user_id", "surplus",
    ]  # fmt: skip
    with pytest.raises(BudgetInvalid) as caught:
        checked()
    assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == {
        "tenant", "name", "amount", "currency",
    }  # fmt: skip


def test_a_refusal_repeats_no_long_input() -> None:
    with pytest.raises(BudgetInvalid) as caught:
        checked(**(GOOD | {"amount": "x" * 10**6, "time_zone": "y" * 10**6}))
    assert len(str(caught.value)) < 500


def test_a_budget_does_not_change() -> None:
    budget: Budget = checked(**GOOD)
    with pytest.raises(ValueError, match="frozen"):
        budget.amount = Decimal(1)  # type: ignore[misc]
