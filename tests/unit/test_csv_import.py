"""A table becomes events: every cell exact, every mistake named, the same row under the same id."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest

from meterstream.deploy.intake import csv_import
from meterstream.deploy.pricing import check as price_check
from meterstream.producers import csv_map
from meterstream.producers.csv_events import CsvRows
from meterstream.producers.csv_rows import Dialect, RowSplitter
from meterstream.producers.publish import PublishPolicy, Watch, publish_file
from meterstream.schema.errors import UsageError
from tests.unit.test_publish_resume import Broker

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "import.md").read_text("utf-8")
MAP = """
source: test
id: row
tenant: {column: tenant}
time: {column: time, zone: UTC}
provider: {constant: openai}
model: {constant: gpt-4o-mini}
operation: {constant: chat}
usage:
  input_tokens: {column: input}
"""


def events(text: str | bytes, mapping: str = MAP) -> list[dict[str, Any]]:
    """Of a file in which every row is good."""
    good, refused = read(text, mapping)
    assert not refused
    return good


def read(text: str | bytes, mapping: str = MAP) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """(events, problems by row)."""
    made = csv_map.parse(mapping, "map.yaml")
    rows = CsvRows(made, "file.csv", csv_import.judge(NOW))
    splitter = rows.splitter(lines_before=0, bytes_before=0)
    content = text.encode() if isinstance(text, str) else text
    good, refused = [], {}
    for row in [*splitter.feed(content), *splitter.finish()]:
        checked = rows.check(row)
        if checked is not None and checked.problem:
            refused[row.number] = checked.problem
        elif checked is not None:
            good.append(json.loads(checked.value, parse_float=Decimal))
    return good, refused


def ids(text: str, mapping: str = MAP) -> list[str]:
    return [event["id"] for event in events(text, mapping)]


def rows_of(*inputs: object, tenant: str = "acme") -> str:
    return "tenant,time,input\n" + "".join(f"{tenant},2026-11-01T10:00:00,{cell}\n" for cell in inputs)


def with_usage(spec: str, form: str = "") -> str:
    return MAP.replace("input_tokens: {column: input}", f"seconds: {spec}") + form


def test_equal_rows_stay_apart_and_appended_ones_change_no_id() -> None:
    before = ids(rows_of(5, 5, 7, 5))
    assert len(set(before)) == 4
    assert ids(rows_of(5, 5, 7, 5, 5, 8))[:4] == before == ids(rows_of(5, 5, 7, 5))
    assert not set(before) & set(ids(rows_of(5, 5, 7, 5), MAP.replace("source: test", "source: other")))


def test_an_id_is_that_of_the_row_however_it_is_quoted() -> None:
    plain = rows_of(5, 6)
    quoted = "".join('"' + '","'.join(line.split(",")) + '"\r\n' for line in plain.splitlines())
    assert ids(quoted) == ids(plain)


def test_ids_of_a_column_and_of_a_key() -> None:
    table = "tenant,time,input,id\nacme,2026-11-01,5,a-1\nacme,2026-11-01,5,\n"
    good, refused = read(table, MAP.replace("id: row", "id: {column: id}"))
    assert [event["id"] for event in good] == ["a-1"]
    assert "the id is empty" in refused[3]
    key = MAP.replace("id: row", "id: {key: [tenant, time]}")
    first, second = ids("tenant,time,input\na,2026-11-01,5\na,2026-11-02,5\n", key)
    assert first != second
    assert ids("input,time,tenant\n9,2026-11-01,a\n", key) == [first], "other columns and their order do not matter"


def test_an_id_that_is_too_old_for_the_rater_is_refused_here() -> None:
    table = "tenant,time,input,id\nacme,2026-01-01,5,019b0000-0000-7000-8000-000000000000\n"
    _, refused = read(table, MAP.replace("id: row", "id: {column: id}"))
    assert "id" in refused[2]


@pytest.mark.parametrize(
    ("cell", "spec", "form", "expected"),
    [
        ("1234.5", "{column: input}", "", "1234.5"),
        ("1.234,5", "{column: input}", 'format: {decimal: ",", thousands: ".", delimiter: ";"}', "1234.5"),
        ('"1,234,567"', "{column: input}", 'format: {thousands: ","}', "1234567"),
        ("1 234", "{column: input}", 'format: {thousands: " "}', "1234"),
        ("1", '{column: input, times: "0.001"}', "", "0.001"),
        ("0.1", '{column: input, times: "3"}', "", "0.3"),
        ("999999999999.123456789", "{column: input}", "", "999999999999.123456789"),
        ("0.30000000000000004", "{column: input, round: true}", "", "0.3"),
        ("", '{column: input, default: "2"}', "", "2"),
        ("7", "{columns: [input, input]}", "", "14"),
        ("x", '{constant: "1.5"}', "", "1.5"),
    ],
)
def test_numbers_are_exact(cell: str, spec: str, form: str, expected: str) -> None:
    table = rows_of(cell)
    if "delimiter" in form:
        table = f"tenant;time;input\nacme;2026-11-01;{cell}\n"
    [event] = events(table, with_usage(spec, form))
    assert str(event["data"]["usage"]["seconds"]) == expected


@pytest.mark.parametrize(
    ("cell", "spec", "form", "says"),
    [
        ("1.234,5", "{column: input}", "", "has 4 cells"),
        ('"1,234"', "{column: input}", "", "no thousands separators"),
        ('"1,23"', "{column: input}", 'format: {thousands: ","}', "is no number"),
        ("1e3", "{column: input}", "", "is no number"),
        ("nan", "{column: input}", "", "is no number"),
        ("9" * 100, "{column: input}", "", "is no number"),
        ("-1", "{column: input}", "", "seconds is"),
        ("0.1234567891", "{column: input}", "", "more than 9 decimal places"),
        ("", "{column: input}", "", "no usage"),
        ("$5", "{column: input}", "", "is no number"),
    ],
)
def test_numbers_that_are_none(cell: str, spec: str, form: str, says: str) -> None:
    good, refused = read(rows_of(cell, 4), with_usage(spec, form))
    assert len(good) == 1, "the next row is not disturbed"
    assert says in refused[2]


@pytest.mark.parametrize(
    ("cell", "spec", "expected"),
    [
        ("2026-11-01T10:00:00+02:00", "{column: time}", "2026-11-01T08:00:00Z"),
        ("2026-07-01 10:00", "{column: time, zone: Europe/Berlin}", "2026-07-01T08:00:00Z"),
        ("2026-07-01", '{column: time, zone: "-03:30"}', "2026-07-01T03:30:00Z"),
        ("01.07.2026", '{column: time, zone: UTC, format: "%d.%m.%Y"}', "2026-07-01T00:00:00Z"),
        ("1782900000", "{column: time, format: unix_s}", "2026-07-01T10:00:00Z"),
        ("1782900000.000001", "{column: time, format: unix_s}", "2026-07-01T10:00:00.000001Z"),
        ("1782900000123", "{column: time, format: unix_ms}", "2026-07-01T10:00:00.123000Z"),
        ("2026-10-25 02:30", "{column: time, zone: Europe/Berlin}", "2026-10-25T00:30:00Z"),
    ],
)
def test_times(cell: str, spec: str, expected: str) -> None:
    [event] = events(f"tenant,time,input\nacme,{cell},5\n", MAP.replace("{column: time, zone: UTC}", spec))
    assert event["time"] == expected


@pytest.mark.parametrize(
    ("cell", "spec", "says"),
    [
        ("2026-11-01T10:00:00", "{column: time}", "names no zone"),
        ("2026-03-29 02:30", "{column: time, zone: Europe/Berlin}", "does not exist"),
        ("soon", "{column: time}", "not of the format iso"),
        ("", "{column: time}", "an empty cell"),
        ("9" * 40, "{column: time, format: unix_s}", "not of the format unix_s"),
        ("0001-01-01T00:00:00+10:00", "{column: time}", "UTC can express"),
        ("2006-01-01T00:00:00Z", "{column: time}", "too_old"),
        ("2027-01-01T00:00:00Z", "{column: time}", "in_future"),
    ],
)
def test_times_that_are_none(cell: str, spec: str, says: str) -> None:
    _, refused = read(f"tenant,time,input\nacme,{cell},5\n", MAP.replace("{column: time, zone: UTC}", spec))
    assert says in refused[2]


def test_texts_are_translated_and_kept_apart_from_numbers() -> None:
    mapping = (
        MAP.replace("tenant: {column: tenant}", "tenant: {column: tenant, map: {Customer 1: acme}}")
        + """
status_code: {column: code}
latency_ms: {column: took, times: "1000"}
reported_amount: {column: cost}
reported_currency: {constant: USD}
estimated: {column: guess}
user_id: {column: user}
tags:
  team: {column: team}
"""
    )
    table = (
        "tenant,time,input,code,took,cost,guess,user,team\n"
        "Customer 1,2026-11-01,5,200,0.25,0.000000000001,TRUE,,blue\n"
        "Customer 2,2026-11-01,5,200,1,1,false,u,red\n"
    )
    [event], refused = read(table, mapping)
    assert event["tenant"] == "acme"
    data = event["data"]
    assert (data["status_code"], data["latency_ms"], data["estimated"]) == (200, 250, True)
    assert (data["reported_amount"], data["reported_currency"]) == ("0.000000000001", "USD")
    assert data["tags"] == {"team": "blue"} and "user_id" not in data
    assert "'Customer 2'" in refused[3] and "`map`" in refused[3]


def test_a_column_of_vendor_bodies() -> None:
    mapping = MAP.replace("usage:\n  input_tokens: {column: input}", "usage:\n  requests: {column: input}")
    mapping += "vendor_usage: {column: body}\n"
    body = json.dumps({"usage": {"prompt_tokens": 3}}).replace('"', '""')
    good, refused = read(f'tenant,time,input,body\na,2026-11-01,,"{body}"\na,2026-11-01,,[1]\n', mapping)
    assert good[0]["data"]["vendor_usage"] == {"usage": {"prompt_tokens": 3}}
    assert "no object in JSON" in refused[3]


def test_a_table_without_header_in_another_encoding() -> None:
    mapping = (
        MAP.replace("column: tenant", "column: 1")
        .replace("column: time", "column: 2")
        .replace("column: input", "column: 3")
        + 'format: {header: false, encoding: latin-1, delimiter: "\\t"}\n'
    )
    [event] = events("caf\u00e9\t2026-11-01\t5\n".encode("latin-1"), mapping)
    assert event["tenant"] == "caf\u00e9"
    wrong = mapping.replace("encoding: latin-1", "encoding: utf-8")
    with pytest.raises(UsageError, match=r"row 1.*0xe9, is no utf-8.*`encoding`"):
        events("caf\u00e9\t2026-11-01\t5\n".encode("latin-1"), wrong)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("tenant,time\na,b\n", r"map.yaml:10: file.csv has no column 'input'"),
        ("tenant;time;input\n", r"the delimiter is ','"),
        ("tenant,time,input,input\n", "'input' twice"),
    ],
)
def test_a_table_that_is_another_one_is_refused_as_a_whole(table: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read(table)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("source: test", ""), "`source` is missing"),
        (("id: row", ""), "`id` is missing"),
        (("id: row", "id: {column: a, key: [b]}"), "map.yaml:3: .*one of the two; or `id: row`"),
        (("id: row", "id: rows"), "map.yaml:3: `id` is 'rows'"),
        (("{column: tenant}", "tenant"), "map.yaml:4: `tenant` is 'tenant': write {column: customer}"),
        (("{column: tenant}", "{column: a, constant: b}"), "map.yaml:4: .*one of the two"),
        (("{column: tenant}", "{columm: a}"), "map.yaml:4: there is no field `columm`"),
        (("zone: UTC", "zone: Mars/Base"), "map.yaml:5: .*zone 'Mars/Base' is none"),
        (("zone: UTC", "format: dd.mm"), "map.yaml:5: .*format 'dd.mm' is none of iso"),
        (("operation: {constant: chat}", ""), "`operation` is missing"),
        (("input_tokens", "tokens_input"), "map.yaml:10: there is no unit `tokens_input`: did you mean"),
        (("model:", "modle:"), "map.yaml:7: there is no field `modle`: did you mean `model`"),
        (("{column: input}", "{column: input, times: 0.001}"), "map.yaml:10: `times`.*in quotes"),
        (("{column: input}", "{column: input, times: x}"), "map.yaml:10: .*'x' is no decimal number"),
        (("{column: input}", "{column: 3}"), "map.yaml:10: column 3 is a number"),
        (("source: test", "source: test\nsource: b"), "`source` is already on line 2"),
        (("source: test", "source: [test"), "not YAML"),
        (("source: test", "format: {decimal: ',', thousands: ','}\nsource: t"), "are the same"),
        (("source: test", "format: {encoding: utf-16}\nsource: t"), "save it as utf-8"),
        (("source: test", "format: {delimiter: ab}\nsource: t"), "map.yaml:2: `delimiter`"),
        (("source: test", "format: {header: false}\nsource: t"), "there is no header: write its number"),
    ],
)
def test_a_wrong_map_is_refused_with_place_and_fix(change: tuple[str, str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        csv_map.parse(MAP.replace(*change), "map.yaml")
    assert re.search(says.replace("{", r"\{"), str(caught.value)), str(caught.value)


def test_every_mistake_of_a_map_is_named_at_once() -> None:
    wrong = MAP.replace("id: row", "id: x").replace("zone: UTC", "zone: X").replace("input_tokens", "bananas")
    with pytest.raises(UsageError, match="3 mistakes"):
        csv_map.parse(wrong)


@pytest.mark.parametrize("text", ["", "- a", "a"])
def test_what_is_no_map(text: str) -> None:
    with pytest.raises(UsageError, match="is no map"):
        csv_map.parse(text)


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_those_of_the_csv_module_wherever_the_chunks_end(seed: int) -> None:
    random = Random(seed)
    end = random.choice(["\n", "\r\n"])
    letters = f'a", ;\u00e9{end}'
    table = [["".join(random.choices(letters, k=random.randrange(6))) + "x" for _ in range(3)] for _ in range(60)]
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows(table)
    content = text.getvalue().encode()
    splitter = RowSplitter(Dialect())
    found = []
    while content:
        size = random.randrange(1, 40)
        found += splitter.feed(content[:size])
        content = content[size:]
    found += splitter.finish()
    assert [Dialect().cells(row) for row in found] == table, f"seed {seed}"
    assert [row.number for row in found] == list(range(1, 61))
    assert found[-1].end == len(text.getvalue().encode())


def test_a_quote_that_is_never_closed_is_said_and_holds_bounded_memory() -> None:
    good, refused = read(rows_of(5) + 'acme,2026-11-01,"6\nacme,2026-11-01,7\n')
    assert len(good) == 1
    assert "never closed" in refused[3]
    splitter = RowSplitter(Dialect())
    for piece in (b'"', *[b"a" * 99_999 + b"\n"] * 30):
        assert splitter.feed(piece) == []
    [row] = splitter.finish()
    assert row.is_too_long
    with pytest.raises(ValueError, match="never closed"):
        Dialect().cells(row)


async def imported(path: Path, broker: Broker, mapping: str = MAP) -> list[tuple[int, str]]:
    refused: list[tuple[int, str]] = []
    made = csv_map.parse(mapping)
    await publish_file(
        str(path),
        PublishPolicy(topic="usage.raw"),  # the only one that this broker has
        connect=broker.connect,
        progress_folder=path.parent / "home",
        destination=made.digest,
        again=False,
        watch=lambda file: Watch(refused=lambda number, problem: refused.append((number, problem))),
        form=CsvRows(made, "file.csv", csv_import.judge(NOW)),
    )
    return refused


@pytest.mark.parametrize("fail_after", [1, 57, 150, 199])
async def test_an_import_that_broke_off_is_continued_with_the_same_ids(
    tmp_path: Path, fail_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterstream.producers.publish.CHECKPOINT_S", 0.0)
    monkeypatch.setattr("meterstream.producers.chunks.CHUNK_BYTES", 1000)
    path = tmp_path / "file.csv"
    path.write_text("\ufeff" + rows_of(*(number % 7 for number in range(200))))
    expected = ids(path.read_text("utf-8-sig"))
    broken, resumed = Broker(fail_after), Broker()
    with pytest.raises(Exception, match="gone"):
        await imported(path, broken)
    assert await imported(path, resumed) == []
    assert broken.ids() + resumed.ids() == expected
    assert fail_after < 57 or broken.ids()
    again = Broker()
    await imported(path, again)
    assert again.ids() == [], "it is known to be complete"


async def test_bad_rows_are_named_in_each_run_and_a_mended_map_sends_them(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text(rows_of(5, "x", 6, "") + "acme,2026-11-01\n\n,,\n")
    first = Broker()
    refused = await imported(path, first)
    assert [number for number, _ in refused] == [3, 5, 6]
    assert await imported(path, Broker()) == refused
    second = Broker()
    await imported(path, second, MAP.replace("{column: input}", '{column: input, default: "0"}'))
    assert len(second.ids()) == 3 and second.ids()[:2] == first.ids(), "what was sent before has its ids again"


def test_a_dry_run_adds_up(tmp_path: Path) -> None:
    random = Random(11)
    path = tmp_path / "file.csv"
    quantities = [random.randrange(10**6) for _ in range(300)]
    path.write_text(rows_of(*quantities, "x", "y", "", -1))
    found = csv_import.dry_run(str(path), csv_map.parse(MAP), price_check.of_files().book, NOW)
    assert (found.rows, found.statuses, found.repeated, found.conflicts) == (305, {"priced": 300}, 0, 0)
    assert found.usage == {"input_tokens": sum(quantities)}
    assert len(found.first) == csv_import.FIRST_SHOWN
    # gpt-4o-mini: 0.15 USD for a million tokens of input, so each charge is whole in 1e-12.
    assert found.amounts_pico == {"USD": Fraction(sum(quantities)) * 150_000}
    assert [refused.rows for refused in found.refused.values()] == [[302, 303], [304], [305]]
    assert found.refused_rows == 4


def test_a_dry_run_tells_rows_with_one_id(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text(rows_of(5, 5, 6, 5))
    mapping = csv_map.parse(MAP.replace("id: row", "id: {key: [tenant, time]}"))
    found = csv_import.dry_run(str(path), mapping, price_check.of_files().book, NOW)
    assert (found.statuses.total(), found.repeated, found.conflicts) == (1, 2, 1)
    assert found.usage == {"input_tokens": 5}


def test_the_example_of_the_documentation() -> None:
    [table] = re.findall(r"```csv\n(.*?)```", DOCUMENTATION, re.DOTALL)
    [mapping] = re.findall(r"```yaml\n(.*?)```", DOCUMENTATION, re.DOTALL)
    first, second = events(table, mapping)
    assert (first["id"], first["tenant"], first["time"]) == ("r-1", "acme", "2026-11-01T08:15:00Z")
    assert first["data"]["usage"] == {"input_tokens": 1200, "cache_read_tokens": 1000, "output_tokens": 80}
    assert second["data"]["usage"] == {"input_tokens": 300, "output_tokens": 45}
