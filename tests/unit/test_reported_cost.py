"""Which cost is billed where a vendor reports one: the computed one, unless a dated row of the book says otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from meterstream.deploy.cli.group import program
from meterstream.schema import price_file
from meterstream.schema.catalog import decode_entry, encode_entry
from meterstream.schema.errors import PriceFileInvalid
from tests.unit.test_price_conditions import rows_of

HEAD = "provider: gate\ncurrency: USD\nper: 1\nsource: s\n"
RATES = HEAD + (
    "models:\n  - names: [m]\n    prices:\n      - valid_from: 2026-01-01\n"
    '        rates: {input_tokens: "2", requests: "7"}\n'
)
BILLING = """\
billing:
  - {valid_from: 2026-02-01, bill: reported}
  - {valid_from: 2026-04-01, bill: computed}
"""
TENANTS = {
    "own": HEAD + "tenant: own\nbilling: [{valid_from: 2026-01-01, bill: reported}]\n",
    "ours": HEAD + "tenant: ours\nbilling: [{valid_from: 2026-01-01, bill: computed}, "
    "{valid_from: 2026-03-01, bill: withdrawn}]\n",
    "reseller": HEAD + "tenant: reseller\nmodels:\n  - names: [m]\n    match: prefix\n"
    '    prices: [{valid_from: 2026-01-01, percent: "10"}]\n',
}


def checked(folder: Path, at: str, tenant: str = "t", **data: Any) -> dict[str, Any]:
    """What `price check` answers for one call of two tokens that cost 4 USD by their rate."""
    file = folder / "events.jsonl"
    arguments = ["price", "check", "--in", str(file), "--json", "--at", at, "--tenant", tenant]
    for name, text in {**TENANTS, "rates": RATES, "billing": HEAD + BILLING}.items():
        (folder / f"{name}.yaml").write_text(text)
        arguments += ["--book", str(folder / f"{name}.yaml")]
    file.write_text(json.dumps({"provider": "gate", "model": "m", "usage": {"input_tokens": 2}, **data}))
    done = CliRunner().invoke(program, arguments, standalone_mode=False)
    assert done.exception is None, done.exception
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return answer


REPORTED = {"reported_amount": "0.123456789012", "reported_currency": "EUR"}


@pytest.mark.parametrize(
    ("at", "tenant", "amount"),
    [
        ("2026-01-31T23:59:59.999999Z", "t", "4"),
        ("2026-02-01", "t", "0.123456789012"),
        ("2026-03-31T23:59:59.999999Z", "t", "0.123456789012"),
        ("2026-04-01", "t", "4"),
        ("2026-01-01", "own", "0.123456789012"),
        ("2026-05-01", "own", "0.123456789012"),
        ("2026-02-01", "ours", "4"),
        ("2026-03-01", "ours", "0.123456789012"),
        ("2026-01-31", "reseller", "4.4"),
        ("2026-02-01", "reseller", "0.135802467913"),  # 0.1358024679132: rounded once
    ],
)
def test_the_moment_and_the_tenant_decide(tmp_path: Path, at: str, tenant: str, amount: str) -> None:
    answer = checked(tmp_path, at, tenant, **REPORTED)
    is_reported = not amount.startswith("4")
    assert (answer["status"], answer["amount"]) == ("priced", amount)
    assert answer["currency"] == ("EUR" if is_reported else "USD")
    assert sum(float(line["amount"]) for line in answer["lines"]) == pytest.approx(float(amount))
    assert [line["unit"] for line in answer["lines"]] == ["reported_cost" if is_reported else "input_tokens"]
    if is_reported:
        assert (answer["billed"], answer["computed_currency"]) == ("reported", "USD")
        assert answer["computed_amount"] == ("4.4" if tenant == "reseller" else "4")
        assert answer["lines"][0]["price"]["bill"] == "reported"
    else:
        assert "billed" not in answer


@pytest.mark.parametrize(
    ("data", "status", "amount"),
    [
        ({}, "priced", "4"),  # nothing is reported
        ({"model": "unknown"}, "unpriced", None),
        ({"model": "unknown", **REPORTED}, "priced", "0.123456789012"),
        ({"usage": {"gigabytes": 1}, **REPORTED}, "priced", "0.123456789012"),
        ({**REPORTED, "reported_amount": "0"}, "priced", "0"),
        ({**REPORTED, "service_tier": "scale"}, "priced", "0.123456789012"),  # its own rate nobody has said
        ({"service_tier": "scale"}, "unpriced", None),
        ({"usage": {}}, "priced", "7"),
        ({"usage": {}, **REPORTED}, "priced", "0.123456789012"),
        ({"usage": {"input_tokens": 0}, "model": "unknown"}, "unpriced", None),
        ({**REPORTED, "reported_currency": "XXX"}, "priced", "4"),  # in no currency: nobody can pay it
        ({"usage": {}, "vendor_usage": {"odd": 1}, **REPORTED}, "unmetered", None),
        ({"usage": {}, "vendor_usage": {"num_segments": "1", "price": "-0.05", "price_unit": "GBP"}}, "priced", "0.05"),
    ],
)
def test_whatever_is_reported(tmp_path: Path, data: dict[str, Any], status: str, amount: str | None) -> None:
    answer = checked(tmp_path, "2026-02-01", **data)
    assert (answer["status"], answer.get("amount")) == (status, amount)


def test_nothing_that_is_reported_has_its_line_too(tmp_path: Path) -> None:
    answer = checked(tmp_path, "2026-02-01", reported_amount="0", reported_currency="EUR")
    (line,) = answer["lines"]
    assert (line["unit"], line["quantity"], line["amount"]) == ("reported_cost", "0", "0")
    assert (line["price"]["bill"], line["price"]["valid_from"]) == ("reported", "2026-02-01T00:00:00Z")


def test_too_much_is_refused_as_any_charge_is(tmp_path: Path) -> None:
    answer = checked(tmp_path, "2026-02-01", reported_amount="1000000.000000000001", reported_currency="EUR")
    assert (answer["status"], answer["reason"]) == ("rejected", "amount_too_large")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("billing: []", "prices:5: `billing` is missing or empty: a list of blocks"),
        ("billing: [{valid_from: 2026-01-01}]", "prices:5: `bill` is missing: reported or computed"),
        ("billing: [{valid_from: 2026-01-01, bill: both}]", "prices:5: `bill`: Input should be 'reported', 'computed'"),
        ("billing: [{valid_from: 2026-01-01, bill: reported, region: eu}]", "there is no field `region`"),
        (BILLING + BILLING.split("\n")[1], "is already at prices:6"),
    ],
)
def test_mistakes_are_named_with_line_and_fix(text: str, said: str) -> None:
    with pytest.raises(PriceFileInvalid) as raised:
        price_file.parse(HEAD + text)
    assert said in str(raised.value)


def test_it_comes_through_the_topic_and_an_earlier_version_takes_it_for_no_rate() -> None:
    for row in rows_of(price_file.parse(HEAD + BILLING)):
        value = encode_entry(row)[1]
        assert b'"kind":"conditional_price"' in value
        read = decode_entry(value)
        assert {name: getattr(read, name) for name in row.__struct_fields__} == {
            name: getattr(row, name) for name in row.__struct_fields__
        }
