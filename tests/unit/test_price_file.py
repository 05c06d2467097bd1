"""Price files: what is read, what is refused, and that every mistake names its line and its fix."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import pytest

from meterstream.deploy.pricing import compared
from meterstream.schema import price_file
from meterstream.schema.catalog import Price
from meterstream.schema.errors import PriceFileInvalid
from meterstream.schema.moments import parse_moment
from meterstream.schema.price_line import PriceLine
from meterstream.schema.units import UNITS

GOOD = """\
provider: acme
currency: USD
per: 1000000
source: https://example.test/pricing
checked_on: 2026-11-21
models:
  - names: [m-1, m-1-2026-01-01]
    prices:
      - valid_from: 2026-01-01
        rates:
          input_tokens: "2.50"
          web_searches: {rate: "10", per: 1000}
      - valid_from: 2026-06-01T02:00:00+02:00
        source: their announcement
        rates:
          input_tokens: "1.25"
          web_searches: withdrawn
"""


def mistakes_in(text: str) -> list[str]:
    """The lines of the answer, without its heading."""
    with pytest.raises(PriceFileInvalid) as caught:
        price_file.parse(text, "acme.yaml")
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]


def test_every_name_gets_every_dated_rate() -> None:
    lines = price_file.parse(GOOD)
    assert len(lines) == 2 * 2 * 2
    first = next(line for line in lines if line.unit == "input_tokens")
    assert first == PriceLine(
        provider="acme",
        model="m-1",
        unit="input_tokens",
        rate="2.5",
        per=1_000_000,
        currency="USD",
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        source="https://example.test/pricing",
        checked_on=date(2026, 11, 21),
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2.50", "2.5"),
        ("0.0", "0"),
        ("007", "7"),
        ("100", "100"),
        ("123456789012.123456789012345678", "123456789012.123456789012345678"),
    ],
)
def test_a_rate_is_kept_to_the_last_digit(written: str, read: str) -> None:
    assert price_file.parse(GOOD.replace("2.50", written, 1))[0].rate == read


def test_a_timestamp_is_read_with_its_zone_and_kept_in_utc() -> None:
    later = [line.valid_from for line in price_file.parse(GOOD) if line.rate == "1.25"]
    assert later == [datetime(2026, 6, 1, tzinfo=UTC)] * 2
    assert all(moment.tzinfo is UTC for moment in later)


def test_thirteen_places_and_more_are_exact() -> None:
    assert price_file.parse(GOOD.replace("2.50", "0.0000000000001", 1))[0].rate == "0.0000000000001"


def test_withdrawn_is_a_row_of_its_own() -> None:
    gone = [line for line in price_file.parse(GOOD) if line.withdrawn]
    assert [(line.unit, line.rate) for line in gone] == [("web_searches", "0")] * 2


def test_a_source_of_its_own_does_not_borrow_the_files_checked_on() -> None:
    checked = {line.source: line.checked_on for line in price_file.parse(GOOD)}
    assert checked == {"https://example.test/pricing": date(2026, 11, 21), "their announcement": None}


def test_a_tenant_of_the_model_wins_over_that_of_the_file() -> None:
    text = GOOD.replace("provider: acme", "provider: acme\ntenant: everybody").replace(
        "    prices:\n", "    tenant: t-1\n    prices:\n", 1
    )
    assert {line.tenant for line in price_file.parse(text)} == {"t-1"}


MISTAKES: list[tuple[tuple[str, str], int, list[str]]] = [
    (('"2.50"', "2.50"), 11, ["2.5 is a YAML number", "in quotes"]),
    (('"2.50"', "3"), 11, ["3 is a YAML number", 'in quotes, "3"']),
    (('"10"', "10"), 12, ["10 is a YAML number", "in quotes"]),
    (('"2.50"', '"1e-7"'), 11, ["'1e-7' is no rate", "plain decimal text"]),
    (('"2.50"', '"-1"'), 11, ["'-1' is no rate"]),
    (('"2.50"', '"٣"'), 11, ["is no rate: ARABIC-INDIC DIGIT THREE is a digit of another script"]),
    (('"2.50"', '" 2.50"'), 11, ["is no rate: it begins or ends with a blank"]),
    (('"2.50"', '"0.1234567890123456789"'), 11, ["19 decimal places, 18 fit", "for more units"]),
    (('"2.50"', '"1234567890123"'), 11, ["13 digits before the point, 12 fit"]),
    (("input_tokens", "inptu_tokens"), 11, ["no unit 'inptu_tokens'", "did you mean input_tokens?"]),
    (("input_tokens", "xyz"), 11, ["no unit 'xyz'", "units are"]),
    (("currency: USD", "currency: usd"), 2, ["'usd' is no currency", "such as USD"]),
    (("currency: USD", "currency: XXX"), 2, ["'XXX' is no currency", "kept for what has no price"]),
    (("currency: USD", "currency: QQQ"), 2, ["'QQQ' is no currency in use", "ISO 4217"]),
    (("currency: USD", "currency: UDS"), 2, ["'UDS' is no currency in use", "did you mean", "USD"]),
    (("currency: USD", "currency: XTS"), 2, ["'XTS' is no currency in use"]),
    (("currency: USD", "currency: DEM"), 2, ["'DEM' is no currency in use"]),
    (('"2.50"', '"NaN"'), 11, ["'NaN' is no rate"]),
    (('"2.50"', '"1e400"'), 11, ["'1e400' is no rate"]),
    (("provider: acme", "provider: bedrock"), 1, ["'bedrock' is called 'aws' here"]),
    (("provider: acme", 'provider: "ac\\0me"'), 1, ["holds '\\x00'", "remove it"]),
    (("m-1-2026-01-01", '"m-1\\u009b"'), 7, ["holds '\\x9b'", "remove it"]),
    (("their announcement", '"a\\nb"'), 14, ["holds '\\n'"]),
    (("valid_from: 2026-01-01", "valid_from: 1970-01-01"), 9, ["is it a slip?", "2000-01-01 means since ever"]),
    (("valid_from: 2026-01-01", "valid_from: 2200-01-01"), 9, ["is it a slip?"]),
    (("per: 1000000", "per: 0"), 3, ["`per`"]),
    (("per: 1000000", "per: 1000000\nsoruce: x"), 4, ["no field `soruce`"]),
    (("2026-01-01\n        rates", "2026-13-01\n        rates"), 9, ["'2026-13-01' is no day"]),
    (("T02:00:00+02:00", " 02:00:00"), 13, ["has no zone", "add Z"]),
    (("their announcement", "' x'"), 14, ["begins or ends with a space"]),
    (("provider: acme\n", ""), 1, ["`provider` is missing"]),
    (("m-1-2026-01-01]", '"m-1-*"]'), 7, ["'m-1-*'", "`match: pattern`", "`match: exact`"]),
    (("m-1-2026-01-01]", '"m-[0-9]"]'), 7, ["'m-[0-9]'", "`match: pattern`"]),
    (("[m-1, m-1-2026-01-01]", "[]"), 7, ["`names`", "a list such as"]),
    (("[m-1, m-1-2026-01-01]", "m-1"), 7, ["`names`", "a list such as"]),
]
"""(a change of GOOD, the line of the mistake, what is said of it)."""


@pytest.mark.parametrize(("change", "line", "said"), MISTAKES)
def test_refused_with_place_and_fix(change: tuple[str, str], line: int, said: list[str]) -> None:
    text = GOOD.replace(*change, 1)
    assert text != GOOD
    found = mistakes_in(text)
    assert len(found) == 1
    assert found[0].startswith(f"acme.yaml:{line}: ")
    assert all(piece in found[0] for piece in said), found


def test_every_name_that_is_no_pattern_is_named() -> None:
    text = GOOD.replace("[m-1, m-1-2026-01-01]", '[m-*, "m-(1|2)", "m-[9", "m-**"]\n    match: pattern', 1)
    found = mistakes_in(text)
    assert [name for name in ("m-(1|2)", "m-[9", "m-**") if not any(repr(name) in each for each in found)] == []
    assert len(found) == 3


def test_a_name_with_a_star_is_taken_as_it_stands_where_the_file_says_so() -> None:
    lines = price_file.parse(GOOD.replace("[m-1, m-1-2026-01-01]", '["m[1m]"]\n    match: exact', 1))
    assert {(line.match, line.model) for line in lines} == {("exact", "m[1m]")}


def test_a_price_without_any_source_is_refused_at_its_block() -> None:
    found = mistakes_in(GOOD.replace("source: https://example.test/pricing\n", "", 1))
    assert found == ["acme.yaml:8: `source` is missing: name the vendor's page or the contract, here or for the file"]


def test_the_same_price_twice_is_refused_even_when_the_rate_is_equal() -> None:
    again = '      - valid_from: 2026-01-01T00:00:00Z\n        rates: {input_tokens: "2.5"}\n'
    found = mistakes_in(GOOD + again)
    assert len(found) == 2  # one for each name
    assert found[0].startswith(
        "acme.yaml:19: acme m-1 input_tokens from 2026-01-01T00:00:00Z is already at acme.yaml:11"
    )


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    files = [tmp_path / folder / "acme.yaml" for folder in ("old", "new")]
    for file in files:
        file.parent.mkdir()
        file.write_text(GOOD, "utf-8")
    with pytest.raises(PriceFileInvalid) as refused:
        price_file.load(*files)
    assert f"{files[1]}:11: acme m-1 input_tokens from" in str(refused.value)
    assert f"is already at {files[0]}:11" in str(refused.value)


def test_the_same_day_for_another_tenant_is_another_price() -> None:
    own = (
        "  - names: [m-1]\n    tenant: t-1\n    prices:\n"
        '      - valid_from: 2026-01-01\n        rates: {input_tokens: "1"}\n'
    )
    assert len(price_file.parse(GOOD + own)) == 9


def test_a_key_that_is_there_twice_is_refused_not_overwritten() -> None:
    text = GOOD.replace(
        '          input_tokens: "2.50"\n', '          input_tokens: "2.50"\n          input_tokens: "9"\n'
    )
    assert mistakes_in(text) == ["acme.yaml:12: `input_tokens` is already on line 11: remove one"]


def test_all_mistakes_come_at_once() -> None:
    text = GOOD.replace("USD", "usd").replace('"2.50"', "2.5").replace("withdrawn", '"x"')
    assert len(mistakes_in(text)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n",
        "just text",
        "a: [",
        "a: &x 1\nb: *x\n",
        "a: !python/object:os.system x\n",
        "models: 3\n",
        "x: 0b2\n",
        "[" * 200_000,
        "- " * 200_000,
        "{a: " * 200_000,
    ],
)
def test_what_is_no_price_file_is_refused_not_raised_through(text: str) -> None:
    assert mistakes_in(text)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(PriceFileInvalid, match="cannot be read"):
        price_file.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"provider: caf\xe9\n")
    with pytest.raises(PriceFileInvalid, match="cannot be read"):
        price_file.load(tmp_path / "latin.yaml")


def test_one_price_from_parts_is_held_to_the_same_rules() -> None:
    parts = {"provider": "twilio", "model": "", "unit": "segments", "valid_from": "2026-01-01", "source": "contract"}
    line = price_file.single(rate="0.00790", per=1, currency="USD", **parts)
    assert (line.rate, line.model) == ("0.0079", "")
    with pytest.raises(PriceFileInvalid) as caught:
        price_file.single(rate="a lot", per=1, currency="dollars", **parts)
    assert "'a lot' is no rate" in str(caught.value)
    assert "'dollars' is no currency" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["2026-02-30", "yesterday", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
def test_a_moment_must_say_what_it_means(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_moment(text)


# What is shipped.


def test_shipped_prices_are_many_and_of_many_providers() -> None:
    lines = price_file.shipped()
    assert {line.provider for line in lines} == {
        "anthropic", "aws", "azure", "cohere", "deepseek", "exa", "google", "groq", "mistral", "openai", "openrouter",
        "twilio", "xai",
    }  # fmt: skip
    assert len({(line.provider, line.model) for line in lines}) >= 3_000
    assert len(lines) >= 10_000


def test_every_shipped_price_fits_the_catalog_and_the_table() -> None:
    for line in price_file.shipped():
        price = Price(
            price_id=1,
            revision=1,
            provider=line.provider,
            model=line.model,
            unit=line.unit,
            currency=line.currency,
            per=line.per,
            valid_from=line.valid_from,
            known_from=line.valid_from,
            source=line.source,
            rate=line.rate,
        )
        assert msgspec.json.decode(msgspec.json.encode(price), type=Price) == price
        assert line.unit in UNITS
        assert line.source


@pytest.mark.parametrize(
    ("provider", "model", "unit", "rates"),
    [
        ("openai", "gpt-4o", "input_tokens", {"2024-05-13": "5", "2024-10-02": "2.5"}),
        ("openai", "gpt-4o", "output_tokens", {"2024-05-13": "15", "2024-10-02": "10"}),
        ("openai", "o3", "input_tokens", {"2025-04-16": "10", "2025-06-10": "2"}),
        ("openai", "gpt-5.6-sol", "output_tokens", {"2026-07-09": "30", "2026-08-21": "20"}),
        ("openai", "text-embedding-ada-002", "input_tokens", {"2022-12-15": "0.4", "2023-06-13": "0.1"}),
        ("anthropic", "claude-3-5-haiku-20241022", "output_tokens", {"2024-11-04": "5", "2024-12-03": "4"}),
        ("anthropic", "claude-sonnet-4-5-20250929", "cache_write_1h_tokens", {"2025-09-29": "6"}),
        ("google", "gemini-1.5-pro", "output_tokens", {"2024-05-14": "10.5", "2024-10-01": "5"}),
        ("google", "gemini-4-argon", "input_tokens", {"2026-10-13": "2", "2026-12-01": "4"}),
        ("cohere", "rerank-v3.5", "search_units", {"2024-12-02": "2"}),
    ],
)
def test_known_prices_and_the_days_they_changed(provider: str, model: str, unit: str, rates: dict[str, str]) -> None:
    found = {
        f"{line.valid_from:%Y-%m-%d}": line.rate
        for line in price_file.shipped()
        if line.is_plain and (line.provider, line.model, line.unit) == (provider, model, unit)
    }
    assert found == rates


def test_the_digest_of_the_shipped_files_is_of_names_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides whether a database has them: see `compared`."""
    assert compared.files_digest() == compared.files_digest()
    monkeypatch.setattr(compared, "files", lambda _: tmp_path)
    folder = tmp_path / "prices"
    folder.mkdir()
    seen = {compared.files_digest()}
    for name, text in (("a.yaml", ""), ("a.yaml", "b"), ("b.yaml", ""), ("b.yaml", "b")):
        (folder / name).write_text(text)
        seen.add(compared.files_digest())
    (folder / "a.yaml").unlink()
    seen.add(compared.files_digest())
    assert len(seen) == 6
    monkeypatch.setattr(compared, "version", lambda _: "another")
    assert compared.files_digest() not in seen
