"""What may be changed in a rejected event before it is sent again."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from meterstream.producers.edits import edited, parse_rename, parse_set, parse_unset
from meterstream.schema.errors import UsageError

BODY = b'{"id":"1","data":{"model":"m","usage":{"input_tokens":0.10000000000000000001}}}'


def test_without_edits_not_a_byte_changes() -> None:
    assert edited(b'{ "a" : 1e2 }', []) == b'{ "a" : 1e2 }'
    assert edited(b"no json", []) == b"no json"


def test_fields_are_set_and_taken_out_and_numbers_stay_exact() -> None:
    done = edited(
        BODY, [parse_set("data.model=gpt-4o"), parse_set("data.tags.team=a"), parse_unset("id"), parse_unset("nothing")]
    )
    read = json.loads(done, parse_float=Decimal)
    assert read == {
        "data": {"model": "gpt-4o", "usage": {"input_tokens": Decimal("0.10000000000000000001")}, "tags": {"team": "a"}}
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("a=12", 12), ("a=1.50", Decimal("1.50")), ('a="12"', "12"), ("a=NaN", "NaN")),
        *(("a=", ""), ("a=x=y", "x=y"), ("a=null", None)),
    ],
)
def test_a_value_is_json_where_it_is_some(text: str, value: object) -> None:
    assert json.loads(edited(b"{}", [parse_set(text)]), parse_float=Decimal) == {"a": value}


def test_a_field_keeps_its_value_under_another_name() -> None:
    edits = [parse_rename("data.usage.input_tokens=data.usage.output_tokens"), parse_rename("data.model=model")]
    read = json.loads(edited(BODY, edits), parse_float=Decimal)
    assert read == {
        "id": "1", "model": "m", "data": {"usage": {"output_tokens": Decimal("0.10000000000000000001")}}
    }  # fmt: skip
    assert json.loads(edited(BODY, [parse_rename("data.nothing=data.model")]))["data"]["model"] == "m"
    nothing = [parse_rename("data.tags.a=data.b"), parse_unset("data.tags.a")]
    assert json.loads(edited(BODY, nothing), parse_float=str) == json.loads(BODY, parse_float=str)
    assert str(edits[1]) == "data.model renamed to model"


def test_a_name_that_is_taken_is_not_overwritten() -> None:
    with pytest.raises(UsageError, match=r"both data\.model and id are there"):
        edited(BODY, [parse_rename("data.model=id")])


@pytest.mark.parametrize("text", ["model", "=a", "a=", "a..b=c", "a=a"])
def test_what_is_no_renaming_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as|two names"):
        parse_rename(text)


@pytest.mark.parametrize("text", ["model", "=1", "a..b=1", ".a=1"])
def test_what_names_no_field_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as"):
        parse_set(text)


@pytest.mark.parametrize("body", [b"[1]", b'"text"', b"{", b"\xff", b'{"data": []}'])
def test_what_cannot_be_edited_is_refused_with_the_reason(body: bytes) -> None:
    with pytest.raises(UsageError):
        edited(body, [parse_set("data.model=m")])


def test_an_edit_says_what_it_does() -> None:
    assert [str(parse_set("data.model=m")), str(parse_unset("data.x"))] == ['data.model = "m"', "without data.x"]
