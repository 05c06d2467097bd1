"""Input that is too large or too hostile for an example file: each gets a reason and the rest goes on."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
from collections import Counter
from collections.abc import Sequence, Set
from datetime import UTC, datetime
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from meterstream.processors.rating.badness import JUDGED_FROM_EVENTS, BadShare
from meterstream.processors.rating.book import PLANS_MAX, Book
from meterstream.processors.rating.decode import EVENTS_PER_RECORD_MAX, RECORD_BYTES_MAX, decode_record
from meterstream.processors.rating.price import charge
from meterstream.processors.rating.rater import Rater
from meterstream.processors.rating.route import Outbox, Router
from meterstream.schema.catalog import Price
from meterstream.schema.cloudevents import HEADERS_MAX, STRUCTURED_HEADERS
from meterstream.schema.errors import EventRejected
from meterstream.schema.position import SourcePartition, split_position
from meterstream.schema.rejection import (
    HEADERS_BYTES_MAX,
    KEY_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Rejected,
    decode_rejected,
    encode_rejected,
)

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "type": "meterstream.usage.v1",
    "id": "order/1",
    "source": "shop",
    "time": AT.isoformat(),
    "tenant": "acme",
    "data": {"provider": "p", "model": "m", "operation": "chat", "usage": {"output_tokens": 5}},
}
GOOD = json.dumps(EVENT).encode()


def rate(
    values: Sequence[bytes | None],
    headers: Any = STRUCTURED_HEADERS,
    key: bytes | None = None,
    *,
    private: Set[str] = frozenset(),
    neighbours: bool = True,
) -> tuple[Rater, list[Rejected]]:
    """Neighbours of the hostile record: one good event before it, one after it."""
    rater = Rater(Router(4), Book([], 0), frozenset(private))
    outbox = Outbox(SourcePartition(1, 0), start_offset=0, priced=4, rejected=1)
    records: list[Any] = [
        SimpleNamespace(offset=i, timestamp=int(AT.timestamp() * 1000), key=key, value=value, headers=headers)
        for i, value in enumerate([GOOD, *values, GOOD] if neighbours else values)
    ]
    rater.rate("usage.raw", outbox, records, is_backfill=False)
    if headers == STRUCTURED_HEADERS and neighbours:
        assert rater.dispositions["unpriced"] >= 2, "the neighbours are admitted"
    for rejected in outbox.rejected:
        assert decode_rejected(encode_rejected(rejected)) == rejected
    return rater, outbox.rejected


def test_a_value_beyond_the_bound_keeps_its_beginning_length_and_digest() -> None:
    value = b"{" + b" " * RECORD_BYTES_MAX
    _, [rejected] = rate([value])
    assert rejected.reason == "record_too_large"
    assert rejected.is_truncated
    assert base64.b64decode(rejected.value) == value[:PAYLOAD_BYTES_MAX]
    assert rejected.value_length == len(value)
    assert rejected.value_sha256 == sha256(value).hexdigest()


IP, AGENT = b"203.0.113.77", b"Mozilla/5.0 secret"


def of(tenant: str, **changes: Any) -> bytes:
    data = {**EVENT["data"], "ip": IP.decode(), "user_agent": AGENT.decode()}
    return json.dumps({**EVENT, "tenant": tenant, "data": data, **changes}).encode()


BINARY_HEADERS = (
    ("content-type", b"application/json"),
    *((f"ce_{name}", str(EVENT[name]).encode()) for name in ("specversion", "id", "source", "type", "time")),
    ("ce_tenant", b"quiet"),
    ("x-forwarded-for", IP),
    ("ce_client", AGENT),
)
REJECTED_OF_QUIET = {
    "too old": (of("quiet", time="2020-01-01T00:00:00Z"), STRUCTURED_HEADERS, None),
    "no event": (of("quiet", id=7), STRUCTURED_HEADERS, None),
    "escaped": (of("quiet", id=7).replace(b'"quiet"', b'"qu\\u0069et"'), STRUCTURED_HEADERS, None),
    "escaped attribute": (
        of("quiet", id=7).replace(b'"tenant"', b'"\\u0074en\\u0061n\\u0074"'),
        STRUCTURED_HEADERS,
        None,
    ),
    "cut off": (of("quiet")[:-9], STRUCTURED_HEADERS, None),
    "cut off before the tenant": (b'{"ip": "' + IP + b'", "user_agent": "' + AGENT, STRUCTURED_HEADERS, b"quiet"),
    "one of an array": (b"[" + of("quiet", id=7) + b"]", STRUCTURED_HEADERS, None),
    "an array of several tenants, cut off": (b"[" + of("loud") + b"," + of("quiet"), STRUCTURED_HEADERS, None),
    "too large": (of("quiet") + b" " * RECORD_BYTES_MAX, STRUCTURED_HEADERS, None),
    "binary mode": (json.dumps({"ip": IP.decode(), "user_agent": 7}).encode(), BINARY_HEADERS, None),
    "other headers": (of("quiet"), (("content-type", b"text/plain"), ("user-agent", AGENT)), None),
}


MAY_BE_OF_OTHERS = {"cut off before the tenant", "an array of several tenants, cut off"}


@pytest.mark.parametrize("case", REJECTED_OF_QUIET)
def test_privacy_reaches_rejected_records_wherever_they_name_their_tenant(case: str) -> None:
    value, headers, key = REJECTED_OF_QUIET[case]
    _, [rejected] = rate([value], headers, key, private={"quiet"}, neighbours=False)
    assert rejected.is_withheld and not rejected.is_truncated
    assert rejected.tenant == "quiet"
    stored = encode_rejected(rejected)
    kept = stored + b"".join(base64.b64decode(content) for _, content in rejected.headers)
    assert IP not in kept and AGENT not in kept
    original = value[1:-1] if case == "one of an array" else value
    assert (rejected.value_length, rejected.value_sha256) == (len(original), sha256(original).hexdigest())
    assert (rejected.position, rejected.topic) == (0, "usage.raw")
    # The same bytes where nobody asked for privacy, and where another tenant did:
    for private in (set(), {"other"}):
        _, [plain] = rate([value], headers, key, private=private, neighbours=False)
        assert plain.reason == rejected.reason
        assert plain.is_withheld is (bool(private) and case in MAY_BE_OF_OTHERS)
        if not plain.is_withheld:
            assert base64.b64decode(plain.value) == original[:PAYLOAD_BYTES_MAX]


ANYBODYS = {
    "UTF-16": of("quiet").decode().encode("utf-16"),
    "UTF-16 of the other order, without a mark": of("quiet").decode().encode("utf-16-be"),
    "UTF-32": of("quiet").decode().encode("utf-32"),
    "UTF-16 of an array": b"[\0" + of("quiet").decode().encode("utf-16-le"),
    "compressed": gzip.compress(of("quiet")),
    "a text of JSON": json.dumps(of("quiet").decode()).encode(),
    "base64": base64.b64encode(of("quiet")),
    "no tenant": json.dumps({name: value for name, value in EVENT.items() if name != "tenant"}).encode(),
    "a number": of("quiet").replace(b'"quiet"', b"7"),
    "half a surrogate pair": of("quiet").replace(b'"quiet"', b'"qu\\ud800iet"'),
    "no UTF-8": of("quiet").replace(b'"quiet"', b'"qu\xffiet"'),
    "too long a name": of("quiet" * 300),
    "an array that may lack its end": b"[" + of("loud") + b', {"ip": "' + IP,
    "nothing": b"",
}
"""What does not say for sure whose it is."""


@pytest.mark.parametrize("case", ANYBODYS)
def test_what_may_be_a_private_tenants_is_withheld(case: str) -> None:
    for key in (None, b"loud"):
        _, [rejected] = rate([ANYBODYS[case]], key=key, private={"other"}, neighbours=False)
        assert rejected.value == "" and rejected.key is None
        _, [plain] = rate([ANYBODYS[case]], key=key, neighbours=False)
        assert base64.b64decode(plain.value) == ANYBODYS[case] and not plain.is_withheld


def test_a_header_tells_whose_a_body_in_binary_mode_is() -> None:
    loud = tuple((name, b"loud" if name == "ce_tenant" else text) for name, text in BINARY_HEADERS)
    body = b'{"ip": "' + IP
    for headers, is_withheld in ((loud, False), ((*loud, ("ce_tenant", b"\xff")), True), (BINARY_HEADERS, True)):
        _, [rejected] = rate([body], headers, private={"quiet"}, neighbours=False)
        assert rejected.is_withheld is is_withheld


def test_the_identifiers_of_a_withheld_record_stay() -> None:
    _, [rejected] = rate([b"{}"], BINARY_HEADERS, b"quiet", private={"quiet"}, neighbours=False)
    assert {name for name, _ in rejected.headers} == {name for name, _ in BINARY_HEADERS} - {
        "x-forwarded-for",
        "ce_client",
    }
    _, [readable] = rate([of("quiet", time="2020-01-01T00:00:00Z")], private={"quiet"}, neighbours=False)
    assert (readable.tenant, readable.event_id, readable.reason) == ("quiet", "order/1", "too_old")


@pytest.mark.parametrize("key", [IP, AGENT, b"\xff", b"quiet"])
def test_of_a_withheld_record_the_key_stays_where_it_is_the_tenant_alone(key: bytes) -> None:
    _, [rejected] = rate([of("quiet", id=7)], key=key, private={"quiet"}, neighbours=False)
    assert rejected.is_withheld
    assert rejected.key == (base64.b64encode(key).decode() if key == b"quiet" else None)


def test_a_million_tenants_in_a_record_end() -> None:
    value = b'[{"tenant"' + b" " * 500_000 + b'"tenant":"' * 100_000 + b'"tenant":"\\"' * 10_000
    _, [rejected] = rate([value], private={"quiet"}, neighbours=False)
    assert rejected.is_withheld
    _, [rejected] = rate([value.removeprefix(b"[") + of("loud")], private={"quiet"}, neighbours=False)
    assert rejected.is_withheld


def test_a_megabyte_of_key_and_headers_is_cut() -> None:
    headers = (("content-type", b"text/plain"), *((f"h{i}", b"x" * 5000) for i in range(200)))
    rater, rejections = rate([GOOD], headers=headers, key=b"k" * 1_000_000)
    assert rater.dispositions == {"content_type": 3}
    for rejected in rejections:
        assert rejected.key is not None
        assert len(base64.b64decode(rejected.key)) == KEY_BYTES_MAX
        assert sum(len(base64.b64decode(value)) for _, value in rejected.headers) <= HEADERS_BYTES_MAX


def test_a_rejected_event_in_binary_mode_keeps_what_it_is_made_of_beside_large_headers() -> None:
    own = (("content-type", b"application/json"), *binary_headers())
    headers = [("authorization", b"x" * HEADERS_BYTES_MAX), *own[:3], ("x-note", b"y" * HEADERS_BYTES_MAX), *own[3:]]
    _, [rejected] = rate([b"{}"], (*headers, ("x-small", b"z")), neighbours=False)
    kept = [(name, base64.b64decode(value)) for name, value in rejected.headers]
    assert kept == [*own, ("x-small", b"z")]


def test_too_many_headers_are_not_looked_at_and_few_are_kept() -> None:
    headers = (*STRUCTURED_HEADERS, *((("", b""),) * HEADERS_MAX))
    rater, rejections = rate([None], headers=headers)
    assert rater.dispositions == {"too_many_headers": 3}
    assert all(len(encode_rejected(rejected)) < 16_384 for rejected in rejections)
    rater, _ = rate([], headers=headers[:-1])
    assert rater.dispositions == {"unpriced": 2}


def test_too_many_events_in_one_record() -> None:
    array = b"[" + b",".join([b"1"] * (EVENTS_PER_RECORD_MAX + 1)) + b"]"
    _, [rejected] = rate([array])
    assert rejected.reason == "array_too_long"


def test_an_array_of_a_thousand_over_three_tenants() -> None:
    events = [{**EVENT, "id": f"e/{i}", "tenant": f"tenant-{i % 3}"} for i in range(1000)]
    rater, rejections = rate([json.dumps(events).encode()])
    assert rejections == []
    assert rater.dispositions == {"unpriced": 1002}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (GOOD.replace(b'"data": {', b'"data": {"latency_ms": NaN, '), "malformed_json"),
        (GOOD.replace(b'"chat"', b'"\\ud800"'), "malformed_json"),
        (GOOD.replace(b'"chat"', b'"ch\xffat"'), "malformed_json"),
        (GOOD.replace(b'"chat"', b"[" * 100_000 + b"]" * 100_000), "nested_too_deep"),
        (GOOD.replace(b'"chat"', b"chat"), "malformed_json"),
        (GOOD + GOOD, "malformed_json"),
        (b"", "malformed_json"),
    ],
    ids=["NaN", "half a surrogate pair", "not UTF-8", "bomb", "no quotation marks", "no comma", "nothing"],
)
def test_of_an_array_only_the_element_that_is_no_json_is_rejected(wrong: bytes, reason: str) -> None:
    assert wrong != GOOD
    events = [json.dumps({**EVENT, "id": f"e/{i}", "tenant": f"tenant-{i % 3}"}).encode() for i in range(1000)]
    rater, [rejected] = rate([b"[" + b" , ".join([*events[:500], wrong, *events[501:]]) + b"] "])
    assert rater.dispositions == {"unpriced": 999 + 2, reason: 1}
    assert (rejected.reason, split_position(rejected.position)) == (reason, (1, 500))
    assert base64.b64decode(rejected.value) == wrong[:PAYLOAD_BYTES_MAX]


@pytest.mark.parametrize("depth", [1000, 100_000])
@pytest.mark.parametrize("place", ["vendor_usage", "extension"])
def test_nesting_inside_an_event(depth: int, place: str) -> None:
    bomb = "[" * depth + "]" * depth
    if place == "vendor_usage":
        text = json.dumps({**EVENT, "data": {**EVENT["data"], "vendor_usage": {"a": "BOMB"}}})
    else:
        text = json.dumps({**EVENT, "extension": "BOMB"})
    _, rejections = rate([text.replace('"BOMB"', bomb).encode()])
    assert {rejected.reason for rejected in rejections} <= {"nested_too_deep"}
    assert len(rejections) == 1 or (depth == 1000 and place == "extension")


def binary_headers(**changes: str | bytes) -> tuple[tuple[str, bytes], ...]:
    attributes = {name: str(value) for name, value in EVENT.items() if name != "data"} | changes
    return tuple((f"ce_{name}", text.encode() if isinstance(text, str) else text) for name, text in attributes.items())


@pytest.mark.parametrize("wrong", ["a\x00b", "a\nb", "\x1f"])
def test_control_characters_in_binary_mode(wrong: str) -> None:
    rater, _ = rate([DATA], binary_headers(id=wrong), neighbours=False)
    assert rater.dispositions == {"control_character": 1}


def test_names_in_any_script_are_admitted_in_binary_mode_too() -> None:
    headers = binary_headers(tenant="山田\u3000商店", id="👩\u200d💻\u00a0\x7f")
    rater, rejections = rate([DATA], headers, neighbours=False)
    assert rejections == [] and rater.dispositions == {"unpriced": 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ce_subject", "Zürich\u00a0HQ".encode()),
        ("ce_subject", b"a\0b"),
        ("ce_foo", b"\xe9"),
        ("ce_", b""),
        ("ce_data", b"{}"),
        ("ce_datacontenttype", b"text/plain"),
        ("ce_traceparent", b"\xff\n"),
    ],
)
def test_what_an_attribute_holds_that_nobody_reads_is_no_reason_to_refuse(name: str, content: bytes) -> None:
    odd = ((name, content), (name.upper(), b"once more"))
    rater, _ = rate([DATA], (*binary_headers(), *odd), neighbours=False)
    assert rater.dispositions == {"unpriced": 1}
    rater, _ = rate([b"[" + GOOD + b"," + GOOD + b"]"], (("content-type", b"application/cloudevents+json"), *odd))
    assert rater.dispositions == {"unpriced": 4}, "in structured mode no header is an attribute"


def test_of_one_array_only_the_first_rejected_event_keeps_key_and_headers() -> None:
    headers = (("content-type", b"application/json"), ("x-trace", b"t" * 1000))
    array = b"[" + b",".join([GOOD, b"3", GOOD, b"4", b"{}"]) + b"]"
    _, rejections = rate([array, b"[5]"], headers=headers, key=b"acme", neighbours=False)
    kept = {split_position(rejected.position): (rejected.key, rejected.headers) for rejected in rejections}
    whole = base64.b64encode(b"acme").decode(), tuple((n, base64.b64encode(v).decode()) for n, v in headers)
    assert kept == {(0, 1): whole, (0, 3): (None, ()), (0, 4): (None, ()), (1, 0): whole}


def test_a_private_tenant_is_found_by_the_key_behind_the_first_rejected_event_too() -> None:
    _, rejections = rate([b"[3, 4]"], key=b"acme", private={"acme"}, neighbours=False)
    assert [(r.is_withheld, r.tenant) for r in rejections] == [(True, "acme")] * 2


DATA = json.dumps(EVENT["data"]).encode()
ATTRIBUTES = tuple((f"ce_{name}", str(value).encode()) for name, value in EVENT.items() if name != "data")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (DATA + b',"tenant":"victim","id":"other"', "malformed_json"),
        (DATA + b',"data":' + DATA, "malformed_json"),
        (b'1e999,"tenant":"victim","data":' + DATA, "not_an_event"),
        (b'{"usage":{"requests":1e999}},"tenant":"victim","data":' + DATA, "not_an_event"),
        (DATA + DATA, "malformed_json"),
        (b"", "malformed_json"),
        (b"{" + DATA, "malformed_json"),
        (b"[" + DATA + b"]", "not_an_event"),
        (b"[" * 5_000 + b"]" * 5_000, "nested_too_deep"),
    ],
    ids=lambda part: part[:24].decode() if isinstance(part, bytes) else part,
)
def test_in_binary_mode_the_value_is_one_object_and_cannot_change_the_attributes(value: bytes, reason: str) -> None:
    rater, [rejected] = rate([value], headers=ATTRIBUTES, neighbours=False)
    assert rejected.reason == reason
    assert rater.dispositions == {reason: 1}


@pytest.mark.parametrize("name", ["ce_tenant", "CE_Tenant", "ce_id"])
def test_in_binary_mode_an_attribute_comes_once(name: str) -> None:
    headers = (*ATTRIBUTES, ("ce_traceparent", b"00-1-1-00"), (name, b"victim"))
    _, [rejected] = rate([DATA], headers=headers, neighbours=False)
    assert rejected.reason == "not_an_event"
    assert f"{name.lower()} is there more than once" in rejected.detail
    rater, _ = rate([DATA, b" " + DATA + b"\n"], headers=headers[:-1], neighbours=False)
    assert rater.dispositions == {"unpriced": 2}


def test_a_rejected_tenant_is_printable() -> None:
    """A database refuses NUL in text: the rejected record must not carry it on."""
    _, [rejected] = rate([json.dumps({**EVENT, "tenant": "a\x00b"}).encode()])
    assert rejected.reason == "control_character"
    assert rejected.tenant == "a?b"


def test_a_rejected_tenant_in_any_script_can_be_looked_for() -> None:
    _, [rejected] = rate([json.dumps({**EVENT, "tenant": "山田\u3000商店", "id": "a\u00a0b", "data": {}}).encode()])
    assert (rejected.tenant, rejected.event_id) == ("山田\u3000商店", "a\u00a0b")


def test_hostile_orders_of_units_cannot_grow_the_plans() -> None:
    price = Price(
        price_id=1, revision=1, provider="p", model="m", unit="output_tokens", currency="USD", per=1, rate="1",
        valid_from=AT, known_from=AT, source="test",
    )  # fmt: skip
    rates = Book([price], 1).lookup("t", "p", "m", AT)
    assert rates is not None
    shapes = itertools.permutations(["output_tokens", "reasoning_tokens", "requests", "images", "pages", "credits"])
    for shape in shapes:
        charge(dict.fromkeys(shape, 0) | {"output_tokens": 2}, rates)
    assert len(rates.plans) <= PLANS_MAX


def reason_of(share: BadShare) -> str | None:
    """A call, so that the type checker does not remember what it was before."""
    return share.reason


def is_paused(share: BadShare) -> bool:
    """As `reason_of`."""
    return share.is_paused


def test_many_bad_records_raise_the_alarm_and_an_opt_in_pause() -> None:
    share = BadShare(alarm=0.05, pause=0.5)
    counts = Counter({"priced": JUDGED_FROM_EVENTS * 2})
    share.update(counts)
    assert reason_of(share) is None
    counts["malformed_json"] += JUDGED_FROM_EVENTS
    share.update(counts)
    assert not is_paused(share), "above the alarm, below the pause"
    assert reason_of(share) is not None
    counts["malformed_json"] += JUDGED_FROM_EVENTS * 4
    share.update(counts)
    assert is_paused(share)
    assert "paused" in str(reason_of(share))
    counts["priced"] += 100_000
    share.update(counts)
    assert is_paused(share), "until it is started again"
    assert "paused" in str(reason_of(share))


def test_a_pause_below_the_alarm_is_one() -> None:
    share = BadShare(alarm=0.5, pause=0.1)
    share.update(Counter({"priced": JUDGED_FROM_EVENTS, "malformed_json": JUDGED_FROM_EVENTS // 5}))
    assert share.is_paused
    assert "paused" in str(share.reason)


def test_the_alarm_ends_when_the_bad_records_do() -> None:
    share = BadShare(alarm=0.05, pause=0.0)
    counts = Counter({"malformed_json": JUDGED_FROM_EVENTS})
    share.update(counts)
    assert not share.is_paused, "never pauses by itself"
    assert reason_of(share) is not None
    for _ in range(50):
        counts["unpriced"] += 100
        share.update(counts)
    assert reason_of(share) is None


def test_even_one_answer_that_nobody_could_read_is_logged_and_many_are_few_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    share = BadShare(alarm=0.05, pause=0.0)
    counts = Counter({"priced": 10_000})
    share.update(counts)
    assert caplog.messages == []
    counts["unmetered"] = 1
    share.update(counts)
    assert caplog.messages == ["1 events so far whose usage could not be read; meter.unmetered says why"]
    for _ in range(400):
        counts["unmetered"] += 1
        counts["priced"] += 1000
        share.update(counts)
    assert len(caplog.messages) == 9, "at 1, 2, 4 ... 256"


@pytest.mark.parametrize("number", ["1e-99999999999999999999", "0e99999999999999999999", "1e99999999999999999999"])
def test_an_exponent_that_no_decimal_can_hold_is_a_bad_quantity_and_no_crash(number: str) -> None:
    event = (
        '{"specversion":"1.0","type":"meterstream.usage.v1","source":"s","id":"1","tenant":"t","time":"2026-01-01T00:00:00Z",'
        f'"data":{{"provider":"p","model":"m","operation":"chat","usage":{{"input_tokens":{number}}}}}}}'
    )
    [(rejected, _)] = decode_record(event.encode(), ())
    assert isinstance(rejected, EventRejected) and rejected.reason == "invalid_quantity", rejected


SECRET = "PRIVSECRET of a prompt"
WORDS_OF_QUIET: dict[str, tuple[bytes, Any]] = {
    "a word that is none of ours": (of("quiet", data={**EVENT["data"], "status": SECRET}), STRUCTURED_HEADERS),
    "one that ends as a message does": (
        of("quiet", data={**EVENT["data"], "status": f"{SECRET}' - at `$.{SECRET}`"}),
        STRUCTURED_HEADERS,
    ),
    "a version": (of("quiet", specversion=SECRET), STRUCTURED_HEADERS),
    "a type": (of("quiet", type=SECRET), STRUCTURED_HEADERS),
    "a text for a quantity": (of("quiet", data={**EVENT["data"], "usage": {"images": SECRET}}), STRUCTURED_HEADERS),
    "a name of a unit": (of("quiet", data={**EVENT["data"], "usage": {SECRET: 5}}), STRUCTURED_HEADERS),
    "such a name and no quantity": (of("quiet", data={**EVENT["data"], "usage": {SECRET: -5}}), STRUCTURED_HEADERS),
    "a name of a field": (of("quiet", data={**EVENT["data"], SECRET: 5}), STRUCTURED_HEADERS),
    "a time": (of("quiet", time=SECRET), STRUCTURED_HEADERS),
    "a tag": (of("quiet", data={**EVENT["data"], "tags": {SECRET: 5}}), STRUCTURED_HEADERS),
    "a tag's NUL": (of("quiet", data={**EVENT["data"], "tags": {SECRET: "\x00"}}), STRUCTURED_HEADERS),
    "a content type": (of("quiet"), (("content-type", SECRET.encode()),)),
    "a content type of binary mode": (b"{}", (("ce_tenant", b"quiet"), ("content-type", SECRET.encode()))),
    "a header's name": (b"{}", (("ce_tenant", b"quiet"), (f"ce_{SECRET}", b"\x01"))),
    "a header's name twice": (b"{}", (("ce_tenant", b"quiet"), (f"ce_{SECRET}", b"1"), (f"ce_{SECRET}", b"1"))),
    "a header's name that is no text": (of("quiet"), ((f"{SECRET}\udcff", b""),)),
}


@pytest.mark.parametrize("case", WORDS_OF_QUIET)
def test_privacy_leaves_no_word_of_the_event_in_the_detail(case: str) -> None:
    value, headers = WORDS_OF_QUIET[case]
    _, [rejected] = rate([value], headers, b"quiet", private={"quiet"}, neighbours=False)
    assert rejected.is_withheld and rejected.detail
    assert "privsecret" not in encode_rejected(rejected).decode().lower()
    _, [plain] = rate([value], headers, b"quiet", neighbours=False)
    assert plain.reason == rejected.reason


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"status": "SLOW"}, "$.data.status"),
        ({"usage": {"input_token": 5}}, "'input_token'"),
        ({"usage": {"images": -5}}, "images is -5"),
        ({"prompt": "x"}, "`prompt`"),
        ({"tags": 5}, "Expected `object`, got `int` - at `$.data.tags`"),
    ],
)
def test_privacy_leaves_in_the_detail_what_to_mend(data: dict[str, Any], told: str) -> None:
    value = of("quiet", data={**EVENT["data"], **data})
    _, [rejected] = rate([value], private={"quiet"}, neighbours=False)
    assert told in rejected.detail
