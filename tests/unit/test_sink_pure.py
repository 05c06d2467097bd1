"""The pure parts of the Postgres sink."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterstream.deploy.database import scram_verifier
from meterstream.schema.coverage import UNKNOWN_MS, Prefix
from meterstream.schema.errors import UsageError
from meterstream.schema.ids import claim_key, id_time_ms, uuid7
from meterstream.schema.money import to_decimal
from meterstream.schema.position import SourcePartition
from meterstream.sinks.postgres import claims, partitions, positions
from meterstream.sinks.postgres.connection import decode_amount, encode_amount

SOURCE = SourcePartition(1, 3)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.integers(-(10**38) + 1, 10**38 - 1))
def test_amounts_survive_the_binary_form(pico: int) -> None:
    assert decode_amount(encode_amount(pico)) == to_decimal(pico)


@pytest.mark.parametrize("pico", [0, 1, -1, 10**12, 10**18, 10**20 - 1, 10**20, -(10**20), 10**38 - 1])
def test_amounts_at_the_edges_of_the_two_forms(pico: int) -> None:
    assert decode_amount(encode_amount(pico)) == Decimal(f"{pico}e-12")


def test_what_an_older_sink_has_written_since_has_no_watermark() -> None:
    other = SourcePartition(2, 0)
    _, prefixes = positions.dump({SOURCE: Prefix(10, 99), other: Prefix(5, 98)})
    covered, _ = positions.dump({SOURCE: Prefix(11, UNKNOWN_MS), other: Prefix(5, UNKNOWN_MS)})
    assert positions.load(covered, prefixes) == {SOURCE: Prefix(11, UNKNOWN_MS), other: Prefix(5, 98)}
    assert positions.load(covered, "{}")[other] == Prefix(5, UNKNOWN_MS)


@given(st.lists(st.integers(0, 4 * 86_400_000).map(lambda ms: BEGIN + timedelta(milliseconds=ms)), max_size=30))
def test_keys_are_split_by_day_and_none_is_lost(times: list[datetime]) -> None:
    keys = []
    for time in times:
        event_id = uuid7(time)
        keys.append(claim_key("t", "s", event_id, id_time_ms(event_id)))
    days = list(claims.by_day(sorted(keys)))
    assert [key for day in days for key in day] == sorted(keys)
    assert [{claims.day_of(key) for key in day} for day in days] == [
        {n} for n in sorted({claims.day_of(k) for k in keys})
    ]


def test_midnight_belongs_to_the_new_day() -> None:
    midnight = datetime(2026, 1, 2, tzinfo=UTC)
    ids = [uuid7(midnight - timedelta(milliseconds=1)), uuid7(midnight)]
    days = list(claims.by_day([claim_key("t", "s", event_id, id_time_ms(event_id)) for event_id in ids]))
    assert [len(day) for day in days] == [1, 1]


@pytest.mark.parametrize(
    ("day", "policy", "size"),
    [
        (date(2026, 11, 21), "month", "month"),
        (date(2026, 11, 1), "day", "day"),
        (date(2026, 10, 31), "day", "month"),
        (date(2024, 1, 1), "day", "month"),
        (date(2023, 12, 31), "month", "year"),
    ],
)
def test_old_rows_share_larger_leaves(day: date, policy: partitions.Policy, size: str) -> None:
    assert partitions.size_of(day, date(2026, 11, 21), policy) == size


def test_the_verifier_is_that_of_rfc_7677() -> None:
    """The RFC's example: user `user`, password `pencil`; its proof and server signature follow from our keys."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    head, keys = scram_verifier("pencil", salt).split("$")[1:]
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_key = bytes(a ^ b for a, b in zip(proof, hmac.digest(stored, message, "sha256"), strict=True))
    assert hashlib.sha256(client_key).digest() == stored
    assert base64.b64encode(hmac.digest(server, message, "sha256")) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert head == "4096:W22ZaJ0SNY7soEsUEjb6gQ=="


@pytest.mark.parametrize("password", ["", "pässword", "line\nbreak"])
def test_a_password_that_saslprep_would_change_is_refused(password: str) -> None:
    with pytest.raises(UsageError, match="printable ASCII"):
        scram_verifier(password)


@pytest.mark.parametrize(
    "event_id",
    [
        "019a9f5e 7c00-7a1b-8c3d-4e5f60718293",
        "019a9f5e\t7c00-7a1b-8c3d-4e5f60718293",
        "-019a9f5e7c00-7a1b-8c3d-4e5f60718293",
        "019a9f5e-7c00-7a1b-8c3d4-e5f60718293",
        "019a9f5e7-c00-7a1b-8c3d-4e5f60718293",
        "019a9f5e-7c00-7a1b-8c3d-4e5f6071829-",
    ],
)
def test_an_id_whose_hyphens_are_not_those_of_a_uuid_carries_no_time(event_id: str) -> None:
    assert id_time_ms("019a9f5e-7c00-7a1b-8c3d-4e5f60718293") == 0x019A9F5E7C00
    assert len(event_id) == 36
    assert id_time_ms(event_id) is None
