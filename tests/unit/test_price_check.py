"""`meterstream price check`: golden lines, an independent model over generated events, and no server anywhere."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from meterstream.deploy.cli.group import program
from meterstream.deploy.cli.price_text import exact_text
from meterstream.schema.units import WHOLE_UNITS
from tests.oracle.prices import PriceRow, Prices
from tests.oracle.rules import PARENT, Usage

DATA = Path(__file__).parents[1] / "data" / "price_check"
BOOK = DATA / "book.yaml"
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("price check opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.chdir(tmp_path)


def check(*arguments: str | Path, given: str = "") -> Result:
    return CliRunner().invoke(program, ["price", "check", *map(str, arguments)], input=given, standalone_mode=False)


def answers(done: Result) -> list[dict[str, Any]]:
    assert done.exception is None, done.exception
    return [json.loads(line) for line in done.stdout.splitlines()]


def written(folder: Path, *events: dict[str, Any] | str) -> Path:
    file = folder / "events.jsonl"
    file.write_text("".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in events), "utf-8")
    return file


def call(model: str = "gpt-4o", **usage: int) -> dict[str, Any]:
    return {"provider": "openai", "model": model, "usage": usage}


def test_the_golden_lines() -> None:
    """Each rule once: dates, cached tokens, a tenant's price, a vendor's body, rounding, and every bad end."""
    done = check("--in", DATA / "events.jsonl", "--book", BOOK, "--json")
    expected = [json.loads(line) for line in (DATA / "expected.jsonl").read_text("utf-8").splitlines()]
    assert answers(done) == expected
    assert done.return_value == 1


def test_for_people_the_same() -> None:
    done = check("--in", DATA / "events.jsonl", "--book", BOOK)
    text = done.stdout.splitlines()
    assert text[0] == "1  before  priced  0.00136 EUR  acme m"
    assert text[2] == "    400  cache_read_tokens  at 0.2 / 1,000,000 = 0.00008"
    assert "13  (no id)  rejected  malformed_json: Input data was truncated" in text
    assert text[-1].startswith("15 events: 6 priced, 3 unpriced, 1 unmetered, 5 rejected: 0.0863")


def test_the_shipped_prices_are_the_book_unless_another_is_given(tmp_path: Path) -> None:
    file = written(tmp_path, call(input_tokens=10**6))
    (of_shipped, _) = answers(check("--in", file, "--json", "--at", "2024-12-01"))
    assert (of_shipped["status"], of_shipped["amount"], of_shipped["currency"]) == ("priced", "2.5", "USD")
    (of_book, _) = answers(check("--in", file, "--json", "--at", "2024-12-01", "--book", BOOK))
    assert (of_book["status"], of_book["amount"], of_book["lacking"]) == ("unpriced", None, ["input_tokens"])


def test_at_moves_every_event_whatever_its_id_says(tmp_path: Path) -> None:
    event = {
        "specversion": "1.0",
        "type": "meterstream.usage.v1",
        "id": "01936f2e-0000-7000-8000-000000000000",  # made in November 2024
        "source": "s",
        "tenant": "t",
        "time": "2024-12-01T00:00:00Z",
        "data": {**call(input_tokens=10**6), "operation": "chat"},
    }
    file = written(tmp_path, event, call(input_tokens=10**6))
    at_own, _, _ = answers(check("--in", file, "--json"))
    assert (at_own["time"], at_own["amount"]) == ("2024-12-01T00:00:00Z", "2.5")
    first, second, _ = answers(check("--in", file, "--json", "--at", "2024-10-01T23:59:59Z"))
    assert first["amount"] == second["amount"] == "5"
    assert first["time"] == second["time"] == "2024-10-01T23:59:59Z"


def test_a_tenants_own_prices_count_where_the_line_names_none(tmp_path: Path) -> None:
    data = {"provider": "acme", "model": "m", "usage": {"output_tokens": 10**6}}
    file = written(tmp_path, data, {"tenant": "t", "data": data})
    own, other, _ = answers(check("--in", file, "--json", "--book", BOOK, "--at", "2026-02-01", "--tenant", "t-own"))
    assert (own["amount"], own["tenant"]) == ("7", "t-own")
    assert (other["amount"], other["tenant"]) == ("8", "t")


def test_data_alone_may_say_whose_it_is_and_when(tmp_path: Path) -> None:
    flat = {"id": "a", "tenant": "t", "source": "s", "time": "2024-10-01T23:59:59Z", **call(input_tokens=10**6)}
    odd = {"id": "b", "when": "2024-10-01T23:59:59Z", **call(input_tokens=1)}
    first, second, _ = answers(check("--in", written(tmp_path, flat, odd), "--json"))
    assert (first["id"], first["tenant"], first["time"]) == ("a", "t", "2024-10-01T23:59:59Z")
    assert (first["status"], first["amount"]) == ("priced", "5")
    assert (second["id"], second["reason"]) == ("b", "unknown_field")


@pytest.mark.parametrize(
    "line",
    [
        {"id": "c-1", "object": "chat.completion", "model": "gpt-4o", "usage": {"prompt_tokens": 3, "total_tokens": 7}},
        {"provider": "openai", "model": "gpt-4o", "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    ],
)
def test_a_vendors_answer_in_the_wrong_place_is_told_its_place(tmp_path: Path, line: dict[str, Any]) -> None:
    (answer, _) = answers(check("--in", written(tmp_path, line), "--json"))
    assert answer["status"] == "rejected" and "goes into `vendor_usage`, beside `provider`" in answer["detail"]


def test_a_byte_order_mark_and_ends_of_windows_are_no_mistakes(tmp_path: Path) -> None:
    line = json.dumps(call(input_tokens=1)).encode()
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line + b"\r\n\r\n")
    assert check("--in", file).return_value == 0


@pytest.mark.parametrize(
    ("data", "at", "said"),
    [
        ({"provider": "OpenAl", "model": "gpt-4o"}, "2024-12-01", "provider 'OpenAl': did you mean 'openai'?"),
        ({"provider": "bedrok", "model": "nova"}, "2024-12-01", "provider 'bedrok': did you mean 'aws'?"),
        ({"provider": "nobody", "model": "gpt-4o"}, "2024-12-01", "there are no prices of provider 'nobody'"),
        ({"provider": "openai", "model": "gpt-x"}, "2024-12-01", "there is no price for model 'gpt-x' of openai"),
        ({"provider": "openai"}, "2024-12-01", "there is no price for a call of openai without a model"),
        (
            {"provider": "openai", "model": "gpt-4o"},
            "2024-05-12T23:59:59Z",
            "the first price for model 'gpt-4o' of openai begins 2024-05-13T00:00:00Z",
        ),
        (
            {"provider": "twilio", "model": ""},
            "2026-11-21",
            "without a model is priced by region, and the call is in no",
        ),
    ],
)
def test_why_there_is_no_price_is_said(tmp_path: Path, data: dict[str, Any], at: str, said: str) -> None:
    file = written(tmp_path, {**data, "usage": {"input_tokens": 1}})
    (answer, _) = answers(check("--in", file, "--json", "--at", at))
    assert answer["status"] == "unpriced" and said in answer["detail"]
    assert said in check("--in", file, "--at", at).stdout


def test_that_a_price_has_ended_is_said(tmp_path: Path) -> None:
    dated = [
        {"valid_from": "2026-01-01", "rates": {"input_tokens": "1", "output_tokens": "2"}},
        {"valid_from": "2026-05-01", "rates": {"output_tokens": "withdrawn"}},
        {"valid_from": "2026-06-01", "rates": {"input_tokens": "withdrawn"}},
    ]
    book = {"provider": "p", "currency": "USD", "per": 1, "source": "s", "models": [{"names": ["m"], "prices": dated}]}
    (tmp_path / "book.yaml").write_text(json.dumps(book))
    file = written(tmp_path, {"provider": "p", "model": "m", "usage": {"input_tokens": 1}})
    arguments: list[str | Path] = ["--in", file, "--json", "--book", tmp_path / "book.yaml", "--at"]
    (answer, _) = answers(check(*arguments, "2026-05-31"))
    assert answer["status"] == "priced"
    (answer, _) = answers(check(*arguments, "2026-07-01"))
    assert answer["detail"] == "the prices for model 'm' of p are withdrawn since 2026-06-01T00:00:00Z"


def test_all_priced_is_0_and_no_line_too(tmp_path: Path) -> None:
    assert check("--in", written(tmp_path, call(input_tokens=1))).return_value == 0
    assert check("--in", written(tmp_path, "", "  ")).return_value == 0


@pytest.mark.parametrize(
    "bad",
    [
        "not json",
        '{"data": 7}',
        "7",
        '"text"',
        "null",
        "[1, 2]",
        "{}",
        "[" * 100_000,
        '{"data": {"usage": ' + "9" * 5000 + "}}",
        "\\ud800",
        "\x00",
        json.dumps({"id": "x" * 1_000_001}),
    ],
    ids=lambda text: text[:12],
)
def test_a_bad_line_is_named_and_disturbs_no_other(tmp_path: Path, bad: str) -> None:
    file = written(tmp_path, call(input_tokens=1), bad, call(input_tokens=2))
    first, *found, last, summary = answers(check("--in", file, "--json"))
    assert {answer["status"] for answer in found} == {"rejected"}
    assert {answer["line"] for answer in found} == {2} and all(answer["reason"] for answer in found)
    assert (first["line"], first["status"], last["line"], last["status"]) == (1, "priced", 3, "priced")
    assert summary["summary"]["rejected"] == len(found)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"provider": "\xff\xfe"}\n' + json.dumps(call(input_tokens=1)).encode())
    bad, good, _ = answers(check("--in", file, "--json"))
    assert (bad["status"], good["status"], good["line"]) == ("rejected", "priced", 2)


def test_gzip_is_read(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(call(input_tokens=1)).encode()))
    assert check("--in", file).return_value == 0
    file.write_bytes(file.read_bytes()[:-9])
    assert "cannot be read to its end" in str(check("--in", file).exception)


def test_a_pipe_is_answered_line_by_line() -> None:
    """Before its end: a file of any size passes through, and nothing is held."""
    program = "from meterstream.deploy.cli import main; main()"
    command = [sys.executable, "-c", program, "price", "check", "--in", "-", "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in range(1, 4):
            process.stdin.write(json.dumps(call(input_tokens=number)) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["usage"] == {"input_tokens": number}
        process.stdin.close()
        assert json.loads(process.stdout.readline())["summary"]["priced"] == 3
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--in", "nothing.jsonl"], "nothing.jsonl cannot be opened"),
        (["--in", "-", "--book", "nothing.yaml"], "nothing.yaml: cannot be read"),
        (["--in", "-", "--as-known-at", "2026-01-01"], "--as-known-at needs --stored"),
        (["--in", "-", "--stored", "--book", str(BOOK)], "name two books"),
        (["--in", "-", "--book", str(BOOK), "--book", str(BOOK)], f"is already at {BOOK}:"),
    ],
)
def test_asked_wrongly(arguments: list[str], said: str) -> None:
    assert said in str(check(*arguments).exception)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([("exact", "a", "EUR"), ("exact", "a", "USD")], "output_tokens in EUR ({folder}/book-0.yaml:1)"),
        (
            [("pattern", "*-x", "EUR"), ("pattern", "a-*", "EUR")],
            "'*-x' ({folder}/book-0.yaml:1) and 'a-*' ({folder}/book-1.yaml:1) of p stand for the same models",
        ),
    ],
)
def test_a_book_that_could_never_price_a_call_is_refused(
    tmp_path: Path, models: list[tuple[str, str, str]], said: str
) -> None:
    """As `price add` refuses it; else its calls would be unpriced without a reason that helps."""
    arguments: list[str | Path] = ["--in", "-"]
    for number, (match, name, currency) in enumerate(models):
        unit = "input_tokens" if number else "output_tokens"
        blocks = [{"valid_from": "2026-01-01", "rates": {unit: "1"}}]
        entry = {"names": [name], "match": match, "prices": blocks}
        file = tmp_path / f"book-{number}.yaml"
        file.write_text(
            json.dumps({"provider": "p", "currency": currency, "per": 1, "source": "a test", "models": [entry]})
        )
        arguments += ["--book", file]
    assert said.format(folder=tmp_path) in str(check(*arguments).exception)


def test_it_agrees_with_a_model_in_fractions(tmp_path: Path) -> None:
    """Thousands of events at random moments over random books: status, amount, and each quantity on one line."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for book in range(8):
        rows = _rows(chance)
        file = tmp_path / f"book-{book}.yaml"
        file.write_text(json.dumps(_as_book(rows)), "utf-8")
        usages = [_usage(chance, number) for number in range(400)]
        events = written(tmp_path, *map(_as_event, usages))
        *found, _ = answers(check("--in", events, "--json", "--book", file))
        model = Prices(rows)
        for usage, answer in zip(usages, found, strict=True):
            _compare(usage, model, answer)


UNITS = [*(unit for unit in PARENT if PARENT[unit] or unit.endswith("put_tokens")), "seconds", "requests", "images"]


def _rows(chance: random.Random) -> list[PriceRow]:
    rows = {}
    for _ in range(chance.randrange(3, 40)):
        unit, tenant = chance.choice(UNITS), chance.choice([None, None, "own"])
        start = START + timedelta(days=chance.randrange(5))
        rate = Fraction(chance.randrange(10**6), 10 ** chance.randrange(0, 18))
        per = chance.choice([1, 3, 1000, 10**6, 7 * 10**6])
        is_withdrawn = chance.random() < 0.2
        rows[tenant, unit, start] = PriceRow(tenant, "p", "m", unit, "USD", rate, per, start, 1, is_withdrawn)
    return list(rows.values())


def _as_book(rows: list[PriceRow]) -> dict[str, Any]:
    return {
        "provider": "p",
        "currency": "USD",
        "per": 1,
        "source": "chance",
        "models": [
            {
                "names": ["m"],
                **({"tenant": row.tenant} if row.tenant else {}),
                "prices": [
                    {
                        "valid_from": f"{row.valid_from:%Y-%m-%d}",
                        "rates": {
                            row.unit: "withdrawn" if row.withdrawn else {"rate": exact_text(row.rate), "per": row.per}
                        },
                    }
                ],
            }
            for row in rows
        ],
    }


def _usage(chance: random.Random, number: int) -> Usage:
    quantities: dict[str, Fraction] = {}

    def fill(unit: str, most: int) -> None:
        whole = chance.randrange(most + 1)
        is_whole = unit in WHOLE_UNITS or chance.random() < 0.5
        quantities[unit] = Fraction(whole) if is_whole else Fraction(chance.randrange(10**12), 10**9)
        left = whole
        for part in [part for part in UNITS if PARENT[part] == unit and chance.random() < 0.4]:
            fill(part, left)
            left -= int(quantities[part])

    for unit in chance.sample([unit for unit in UNITS if PARENT[unit] is None], chance.randrange(4)):
        fill(unit, chance.choice([0, 1, 10, 10**6]))
    at = START + timedelta(hours=chance.randrange(-12, 24 * 6))
    data = {"provider": "p", "model": "m"}
    return Usage(chance.choice(["own", "other"]), "s", f"e{number}", at, data, "m", quantities)


def _as_event(usage: Usage) -> str:
    quantities = ", ".join(f'"{unit}": {exact_text(quantity)}' for unit, quantity in usage.quantities.items())
    data = json.dumps(usage.data)[:-1] + f', "usage": {{{quantities}}}}}'
    head = json.dumps({"id": usage.event_id, "tenant": usage.tenant, "time": usage.occurred_at.isoformat()})
    return f'{head[:-1]}, "data": {data}}}'


def _compare(usage: Usage, model: Prices, answer: dict[str, Any]) -> None:
    expected = model.charge(usage)
    assert answer["id"] == usage.event_id
    if expected.amount is None:
        assert (answer["status"], answer["amount"], answer["lines"]) == ("unpriced", None, []), usage
        return
    if expected.amount > 10**6:
        assert answer.get("reason") == "amount_too_large"
        return
    assert (answer["status"], answer["currency"]) == ("priced", "USD"), usage
    lines = answer["lines"]
    assert Fraction(answer["amount"]) == expected.amount == sum(Fraction(line["amount"]) for line in lines), usage
    used = usage.quantities or {"requests": Fraction(1)}
    assert sum(Fraction(line["quantity"]) for line in lines) == sum(
        (quantity for unit, quantity in used.items() if PARENT[unit] is None), Fraction(0)
    ), "each quantity is on exactly one line"
    for line in lines:
        row = model.in_force(usage, line["unit"])
        assert row is not None
        assert (Fraction(line["rate"]), line["per"]) == (row.rate, row.per)
        assert (line["price"]["tenant"], line["price"]["valid_from"]) == (
            row.tenant,
            row.valid_from.isoformat().replace("+00:00", "Z"),
        )
        exact = Fraction(line["quantity"]) * row.rate / row.per
        assert Fraction(line["amount"]) - Fraction(line["rounding"]) == exact


def test_the_lines_in_the_documentation_are_priced(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "prices.md").read_text("utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    *found, _ = answers(check("--in", written(tmp_path, *example.splitlines()), "--json", "--at", "2024-12-01"))
    assert [(answer["id"], answer["amount"]) for answer in found] == [
        ("a", "0.00207"),
        ("b", "0.00257"),
        ("line-3", "0.00257"),
    ]
