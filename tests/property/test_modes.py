"""The same event in structured and in binary mode is admitted alike, or refused for the same reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from meterstream.processors.rating.admit import Claim, admit, age_limits
from meterstream.processors.rating.decode import decode_record
from meterstream.schema.cloudevents import REQUIRED, STRUCTURED_HEADERS, Headers
from meterstream.schema.errors import EventRejected

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
LIMITS = age_limits(int(AT.timestamp() * 1000), is_backfill=False)
GOOD = {
    "specversion": "1.0",
    "type": "meterstream.usage.v1",
    "id": "order/1",
    "source": "shop",
    "time": "2026-11-21T10:00:00Z",
    "tenant": "acme",
}
DATA = {"provider": "p", "model": "m", "operation": "chat", "usage": {"output_tokens": 5}}

odd_pieces = st.sampled_from(
    [*'a \u3000\u00a0\u200d\u0085\u2028\ufeff\x00\n\t\x1b\x7f\x9f\\"/é漢👩', "x" * 128, "x" * 255, "漢" * 100]
)
odd_texts = st.lists(odd_pieces, max_size=3).map("".join)
times = st.sampled_from(
    ["", "2026-11-21", "2026-11-21T10:00:00", "2026-11-21T11:00:00.5+01:00", "2020-01-01T00:00:00Z"]
)
attributes = st.fixed_dictionaries(
    {name: st.one_of(st.just(good), odd_texts) for name, good in GOOD.items() if name != "time"}
    | {"time": st.one_of(st.just(GOOD["time"]), times, odd_texts)}
)
missing = st.lists(st.sampled_from(REQUIRED), max_size=2, unique=True)
ignored = st.lists(
    st.tuples(st.sampled_from(["ce_foo", "ce_subject", "ce_dataschema", "ce_", "ce_data"]), st.binary(max_size=9)),
    max_size=3,
)
datas = st.one_of(
    st.just(DATA),
    st.fixed_dictionaries(
        {}, optional={"provider": odd_texts, "operation": odd_texts, "error": odd_texts, "tags": st.just({"a": "\0"}),
                      "usage": st.sampled_from([{}, {"seconds": 0.5}, {"input_tokens": -1}, {"bananas": 1}])}
    ),
)  # fmt: skip


def outcome(value: bytes, headers: Headers) -> Claim | str:
    """What the event counts as, or the reason why it does not."""
    [(event, original)] = decode_record(value, headers)
    try:
        if isinstance(event, EventRejected):
            raise event
        return admit(event, original, LIMITS)
    except EventRejected as rejected:
        return rejected.reason


def put(texts: dict[str, str], name: str, text: str) -> dict[str, str]:
    return {**texts, name: text}


@given(attributes, missing, ignored, datas, st.booleans())
@example(put(GOOD, "tenant", "山田\u3000商店"), [], [], DATA, True)
@example(GOOD, [], [("ce_foo", b"\xe9")], DATA, True)
@example(GOOD, [], [], [], True)
@example(GOOD, [], [], None, True)
@example(put(put(GOOD, "id", "a\nb"), "time", "2020-01-01T00:00:00Z"), [], [], DATA, True)
def test_both_modes_judge_alike(
    texts: dict[str, str], gone: list[str], beside: list[tuple[str, bytes]], data: Any, is_ascii: bool
) -> None:
    named = {name: text for name, text in texts.items() if name not in gone}
    structured = json.dumps({**named, "data": data, "foo": [None]}, ensure_ascii=is_ascii).encode()
    headers = (*((f"ce_{name}", text.encode()) for name, text in named.items()), *beside)
    binary = json.dumps(data, ensure_ascii=is_ascii).encode()
    assert outcome(binary, headers) == outcome(structured, STRUCTURED_HEADERS)
